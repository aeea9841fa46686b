//! What went wrong: the step, the errno, the path. Nothing is ever just "failed".

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// The steps that can fail, from the start of the supervisor to the first instruction of user code.
///
/// The names are the ones that users meet in errors and that `sandbox_runtime.report` has remedies
/// for; a new step is added there too (a test compares the two).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each variant is named after the one thing it does")]
pub enum Step {
    ReadConfiguration,
    ChooseIds,
    CloneSupervisor,
    CloneSandbox,
    CloneJail,
    CloneProcess,
    WaitForProcess,
    WriteIdMaps,
    BecomeUser,
    OpenSource,
    MakeMountsPrivate,
    MountRoot,
    MakeMountPoint,
    AttachSource,
    CopyFile,
    MountProc,
    MaskProc,
    MountTmpfs,
    MountDevpts,
    PivotRoot,
    RemountReadOnly,
    UnshareSecondUserNamespace,
    LimitUserNamespaces,
    SetHostName,
    LoopbackUp,
    JoinCgroup,
    JoinKeyring,
    SetLimit,
    DropCapabilities,
    NoNewPrivs,
    BuildLandlockRuleset,
    RestrictByLandlock,
    InstallSeccompFilter,
    SetDumpable,
    StartSession,
    PlaceDescriptors,
    EnterNamespace,
    ChangeDirectory,
    Execute,
    OpenDescriptor,
    WatchProcesses,
    SelfCheck,
    Sweep,
    SendMessage,
    ReceiveMessage,
}

/// One failed step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which.
    pub step: Step,
    /// Why, as `errno(3)`; 0 when it was not a system call that said so.
    pub errno: i32,
    /// On what: a path, a name, or what was wrong with it. May be empty.
    pub subject: String,
}

/// The result of everything that takes steps.
pub type Result<T> = std::result::Result<T, Failure>;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {}", self.step, self.subject, io::Error::from_raw_os_error(self.errno))
    }
}

impl std::error::Error for Failure {}

/// Gives an `io::Error` the step that it belongs to.
pub trait At<T> {
    /// For a step with a subject.
    ///
    /// # Errors
    /// The same error, named.
    fn at(self, step: Step, subject: impl fmt::Display) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, step: Step, subject: impl fmt::Display) -> Result<T> {
        self.map_err(|e| Failure {
            step,
            errno: e.raw_os_error().unwrap_or_default(),
            subject: if e.raw_os_error().is_some() {
                subject.to_string()
            } else {
                format!("{subject}: {e}")
            },
        })
    }
}
