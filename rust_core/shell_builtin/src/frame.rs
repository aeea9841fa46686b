//! The wire format: packets in, values out; no descriptor and no system call.
//!
//! Little-endian, one `SOCK_SEQPACKET` message a frame.
//!
//! Request (to the shell), 24 bytes, then the body. The message carries descriptors:
//! stdin, stdout, stderr and, with `BODY_IN_MEMFD`, a memory file.
//!
//! ```text
//! at  type  field      meaning
//!  0  u8    kind       1 = shell text, 2 = argument list
//!  1  u8    flags      1 = BODY_IN_MEMFD: the body is the start of descriptor 4; 2 = HAS_CWD;
//!                      4 = SESSION_BEGINS: the body begins with the session's age;
//!                      8 = CALLED: the shell may use one processor only, the asker's, until
//!                      anything of the user's is about to run
//!  2  u16   env_count  assignments in the body
//!  4  u32   arg_count  arguments in the body, at least 1 for kind 2, 0 for kind 1
//!  8  u64   seq        comes back in the END frame
//! 16  u32   cwd_len    0 without HAS_CWD
//! 20  u32   body_len   at most MAX_BODY
//! ```
//!
//! Body: with `SESSION_BEGINS` `u32` seconds, from which `SECONDS` counts on; `cwd`; then `env_count` times `{u32 name_len, u32 value_len, name, value}`; then for kind 1 the
//! text up to the end, for kind 2 `arg_count` times `{u32 len, bytes}` and nothing after. No NUL
//! anywhere but in the lengths; names are not empty and hold no `=`.
//!
//! Reply (from the shell), 56 bytes:
//!
//! ```text
//! at  type  field          READY (kind 129)  END (kind 130)
//!  0  u8    kind           129               130
//!  1  u8    flags          0                 1 = interrupted, 2 = max_rss_bytes is of this command
//!  2  u16   error          VERSION           see NotRun; 0 = it ran
//!  4  i32   status         pid of the shell  exit status, 128 + N for a signal
//!  8  u64   seq            0                 of the request
//! 16  u64   user_us        0                 processor time, user
//! 24  u64   system_us      0                 processor time, system
//! 32  u64   max_rss_bytes  0                 kind 1: largest child of the session so far; kind 2: this program
//! 40  u32   jobs           0                 background jobs that live
//! 44  i32   errno          0                 why, for an error or a program that did not start
//! 48  u32   detail         0                 index of the assignment, for EnvName and EnvReadonly
//! 52  u32   zero           0                 0
//! ```

/// Version of this format, told in READY.
pub(crate) const VERSION: u16 = 1;
/// Length of a request without its body.
pub(crate) const HEADER_LEN: usize = 24;
/// Length of a reply.
pub(crate) const REPLY_LEN: usize = 56;
/// Longest body, in a message or in a memory file.
pub(crate) const MAX_BODY: usize = 64 << 20;
/// Longest message; a longer body goes into a memory file.
pub(crate) const MAX_PACKET: usize = HEADER_LEN + (64 << 10);

const KIND_TEXT: u8 = 1;
const KIND_ARGV: u8 = 2;
const KIND_READY: u8 = 129;
const KIND_END: u8 = 130;
const FLAG_BODY_IN_MEMFD: u8 = 1;
const FLAG_HAS_CWD: u8 = 2;
const FLAG_SESSION_BEGINS: u8 = 4;
const FLAG_CALLED: u8 = 8;
const FLAG_INTERRUPTED: u8 = 1;
const FLAG_RSS_IS_OWN: u8 = 2;

/// The frame breaks the format; the peer cannot be trusted to be in step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The fixed part of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) seq: u64,
    pub(crate) body_in_memfd: bool,
    pub(crate) body_len: usize,
    pub(crate) called: bool,
    session_begins: bool,
    cwd_len: usize,
    env_count: u16,
    arg_count: Option<u32>,
}

/// What to run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action<'a> {
    Text(&'a [u8]),
    Argv(Vec<&'a [u8]>),
}

/// A request, as borrowed pieces of its body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) session_age_s: Option<u32>,
    pub(crate) cwd: Option<&'a [u8]>,
    pub(crate) env: Vec<(&'a [u8], &'a [u8])>,
    pub(crate) action: Action<'a>,
}

/// Why a command did not run. The numbers are wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum NotRun {
    /// The message did not carry the descriptors (or the shell's table is full).
    Descriptors = 1,
    /// The directory could not be entered; `errno` says why.
    Directory = 2,
    /// Assignment `detail` is of a readonly variable.
    EnvReadonly = 3,
    /// Assignment `detail` has a name that the shell cannot hold.
    EnvName = 4,
    /// The memory file could not be read; `errno` says why.
    Body = 5,
}

/// What an END frame tells.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) seq: u64,
    pub(crate) status: i32,
    pub(crate) not_run: Option<NotRun>,
    pub(crate) errno: i32,
    pub(crate) detail: u32,
    pub(crate) interrupted: bool,
    pub(crate) rss_is_own: bool,
    pub(crate) user_us: u64,
    pub(crate) system_us: u64,
    pub(crate) max_rss_bytes: u64,
    pub(crate) jobs: u32,
}

/// Takes pieces off the front of a slice.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (piece, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(piece)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    fn length(&mut self) -> Result<usize, Malformed> {
        usize::try_from(u32::from_le_bytes(self.array()?)).map_err(|_| Malformed)
    }

    fn text(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let piece = self.take(len)?;
        if piece.contains(&0) { Err(Malformed) } else { Ok(piece) }
    }
}

impl Header {
    /// Reads the fixed part of `packet` and checks that the packet's length agrees with it.
    pub(crate) fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(packet);
        let [kind, flags] = reader.array()?;
        let env_count = u16::from_le_bytes(reader.array()?);
        let arg_count = u32::from_le_bytes(reader.array()?);
        let seq = u64::from_le_bytes(reader.array()?);
        let cwd_len = reader.length()?;
        let body_len = reader.length()?;
        let has_cwd = flags & FLAG_HAS_CWD != 0;
        let body_in_memfd = flags & FLAG_BODY_IN_MEMFD != 0;
        let arg_count = match (kind, arg_count) {
            (KIND_TEXT, 0) => None,
            (KIND_ARGV, 1..) => Some(arg_count),
            _ => return Err(Malformed),
        };
        let sent_len = if body_in_memfd { 0 } else { body_len };
        let called = flags & FLAG_CALLED != 0;
        if flags & !(FLAG_HAS_CWD | FLAG_BODY_IN_MEMFD | FLAG_SESSION_BEGINS | FLAG_CALLED) != 0
            || has_cwd != (cwd_len != 0)
            || body_len > MAX_BODY
            || reader.0.len() != sent_len
        {
            return Err(Malformed);
        }
        let session_begins = flags & FLAG_SESSION_BEGINS != 0;
        Ok(Self {
            seq,
            body_in_memfd,
            body_len,
            called,
            session_begins,
            cwd_len,
            env_count,
            arg_count,
        })
    }

    /// Reads `body`, which has the length the header told.
    pub(crate) fn decode_body<'a>(&self, body: &'a [u8]) -> Result<Request<'a>, Malformed> {
        let mut reader = Reader(body);
        let session_age_s =
            if self.session_begins { Some(u32::from_le_bytes(reader.array()?)) } else { None };
        let cwd = reader.text(self.cwd_len)?;
        let mut env = Vec::new();
        for _ in 0..self.env_count {
            let name_len = reader.length()?;
            let value_len = reader.length()?;
            let name = reader.text(name_len)?;
            let value = reader.text(value_len)?;
            if name.is_empty() || name.contains(&b'=') {
                return Err(Malformed);
            }
            env.push((name, value));
        }
        let action = match self.arg_count {
            None => Action::Text(reader.text(reader.0.len())?),
            Some(count) => {
                let mut arguments = Vec::new();
                for _ in 0..count {
                    let len = reader.length()?;
                    arguments.push(reader.text(len)?);
                }
                if !reader.0.is_empty() {
                    return Err(Malformed);
                }
                Action::Argv(arguments)
            }
        };
        Ok(Request { session_age_s, cwd: (self.cwd_len != 0).then_some(cwd), env, action })
    }
}

/// Writes a READY frame.
pub(crate) fn encode_ready(pid: i32) -> [u8; REPLY_LEN] {
    let mut reply = [0; REPLY_LEN];
    reply[0] = KIND_READY;
    reply[2..4].copy_from_slice(&VERSION.to_le_bytes());
    reply[4..8].copy_from_slice(&pid.to_le_bytes());
    reply
}

impl End {
    /// Writes an END frame.
    pub(crate) fn encode(&self) -> [u8; REPLY_LEN] {
        let mut reply = [0; REPLY_LEN];
        let error = self.not_run.map_or(0, |not_run| not_run as u16);
        reply[0] = KIND_END;
        reply[1] = u8::from(self.interrupted) * FLAG_INTERRUPTED
            + u8::from(self.rss_is_own) * FLAG_RSS_IS_OWN;
        reply[2..4].copy_from_slice(&error.to_le_bytes());
        reply[4..8].copy_from_slice(&self.status.to_le_bytes());
        reply[8..16].copy_from_slice(&self.seq.to_le_bytes());
        reply[16..24].copy_from_slice(&self.user_us.to_le_bytes());
        reply[24..32].copy_from_slice(&self.system_us.to_le_bytes());
        reply[32..40].copy_from_slice(&self.max_rss_bytes.to_le_bytes());
        reply[40..44].copy_from_slice(&self.jobs.to_le_bytes());
        reply[44..48].copy_from_slice(&self.errno.to_le_bytes());
        reply[48..52].copy_from_slice(&self.detail.to_le_bytes());
        reply
    }
}

/// Whether the shell can hold a variable of this name.
pub(crate) fn is_identifier(name: &[u8]) -> bool {
    name.first().is_some_and(|byte| !byte.is_ascii_digit())
        && name.iter().all(|&byte| byte == b'_' || byte.is_ascii_alphanumeric())
}

/// `name='value'`, quoted for the shell.
pub(crate) fn quoted_assignment(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(name.len() + value.len() + 3);
    text.extend_from_slice(name);
    text.extend_from_slice(b"='");
    for &byte in value {
        match byte {
            b'\'' => text.extend_from_slice(br"'\''"),
            _ => text.push(byte),
        }
    }
    text.push(b'\'');
    text
}

/// Whether bash would show `path` unchanged as `$PWD`: absolute, and no empty or dot component.
pub(crate) fn is_plain_absolute(path: &[u8]) -> bool {
    match path.strip_prefix(b"/") {
        Some(b"") => true,
        Some(rest) => {
            rest.split(|&byte| byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, End, Header, MAX_BODY, Malformed, NotRun, REPLY_LEN, Request};

    fn packet(kind: u8, flags: u8, counts: (u16, u32), lens: (u32, u32), body: &[u8]) -> Vec<u8> {
        let mut packet = vec![kind, flags];
        packet.extend(counts.0.to_le_bytes());
        packet.extend(counts.1.to_le_bytes());
        packet.extend(7_u64.to_le_bytes());
        packet.extend(lens.0.to_le_bytes());
        packet.extend(lens.1.to_le_bytes());
        packet.extend(body);
        packet
    }

    fn inline(kind: u8, flags: u8, counts: (u16, u32), cwd_len: u32, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len()).expect("a short body");
        packet(kind, flags, counts, (cwd_len, len), body)
    }

    #[test]
    fn text_is_the_rest_of_the_body() {
        let header = Header::decode(&inline(1, 0, (0, 0), 0, b"echo hi")).expect("a header");
        assert_eq!(header.seq, 7);
        let request = header.decode_body(b"echo hi").expect("a request");
        let action = Action::Text(b"echo hi");
        let expected = Request { session_age_s: None, cwd: None, env: vec![], action };
        assert_eq!(request, expected);
    }

    #[test]
    fn directory_environment_and_arguments_come_in_order() {
        let body = b"/tmp\x01\0\0\0\x02\0\0\0A12\x02\0\0\0ls\x00\0\0\0";
        let header = Header::decode(&inline(2, 2, (1, 2), 4, body)).expect("a header");
        let request = header.decode_body(body).expect("a request");
        assert_eq!(request.cwd, Some(&b"/tmp"[..]));
        assert_eq!(request.env, [(&b"A"[..], &b"12"[..])]);
        assert_eq!(request.action, Action::Argv(vec![b"ls", b""]));
    }

    #[test]
    fn the_first_request_of_a_session_can_tell_its_age() {
        let body = b"\x02\x01\0\0/tmpx";
        let header = Header::decode(&inline(1, 4 | 2, (0, 0), 4, body)).expect("a header");
        let request = header.decode_body(body).expect("a request");
        let (cwd, action) = (Some(&b"/tmp"[..]), Action::Text(b"x"));
        assert_eq!(request, Request { session_age_s: Some(258), cwd, env: vec![], action });
        let short = Header::decode(&inline(1, 4, (0, 0), 0, b"x")).expect("a header");
        assert_eq!(short.decode_body(b"x"), Err(Malformed));
    }

    #[test]
    fn a_shell_is_told_that_it_was_called() {
        let is_called = |packet: &[u8]| Header::decode(packet).map(|header| header.called);
        let program = b"\x04\0\0\0true";
        assert_eq!(is_called(&inline(2, 8, (0, 1), 0, program)), Ok(true));
        assert_eq!(is_called(&inline(2, 0, (0, 1), 0, program)), Ok(false));
        assert_eq!(is_called(&inline(1, 8, (0, 0), 0, b"true")), Ok(true));
    }

    #[test]
    fn a_body_in_a_memory_file_leaves_the_packet_bare() {
        let header = Header::decode(&packet(1, 1, (0, 0), (0, 1 << 20), b"")).expect("a header");
        assert!(header.body_in_memfd);
        assert_eq!(header.body_len, 1 << 20);
        assert_eq!(Header::decode(&packet(1, 1, (0, 0), (0, 1), b"x")), Err(Malformed));
    }

    #[test]
    fn broken_headers_are_refused() {
        let too_long = u32::try_from(MAX_BODY + 1).expect("a length");
        for broken in [
            inline(3, 0, (0, 0), 0, b""),
            inline(2, 16, (0, 1), 0, b"\0\0\0\0"),
            inline(1, 0, (0, 1), 0, b""),
            inline(2, 0, (0, 0), 0, b""),
            inline(1, 2, (0, 0), 0, b""),
            inline(1, 0, (0, 0), 1, b"x"),
            packet(1, 0, (0, 0), (0, 2), b"x"),
            packet(1, 1, (0, 0), (0, too_long), b""),
        ] {
            assert_eq!(Header::decode(&broken), Err(Malformed), "{broken:?}");
        }
        for len in 0..24 {
            assert_eq!(Header::decode(&inline(1, 0, (0, 0), 0, b"")[..len]), Err(Malformed));
        }
    }

    #[test]
    fn broken_bodies_are_refused() {
        let refused = |kind, counts, body: &[u8]| {
            let header = Header::decode(&inline(kind, 0, counts, 0, body)).expect("a header");
            assert_eq!(header.decode_body(body), Err(Malformed), "{body:?}");
        };
        refused(1, (0, 0), b"a\0b");
        refused(1, (1, 0), b"\0\0\0\0\0\0\0\0");
        refused(1, (1, 0), b"\x02\0\0\0\0\0\0\0a=");
        refused(1, (1, 0), b"\x02\0\0\0\xff\xff\xff\xffaa");
        refused(2, (0, 1), b"\x02\0\0\0a");
        refused(2, (0, 1), b"\x01\0\0\0ab");
        refused(2, (0, u32::MAX), b"");
    }

    #[test]
    fn an_end_frame_has_its_fields_where_the_table_says() {
        let end = End {
            seq: 9,
            status: -1,
            not_run: Some(NotRun::EnvReadonly),
            errno: 2,
            detail: 3,
            interrupted: true,
            rss_is_own: true,
            user_us: 4,
            system_us: 5,
            max_rss_bytes: 6,
            jobs: 8,
        };
        let reply = end.encode();
        assert_eq!(reply[..8], [130, 3, 3, 0, 255, 255, 255, 255]);
        for (at, value) in [(8, 9), (16, 4), (24, 5), (32, 6), (40, 8), (44, 2), (48, 3), (52, 0)] {
            assert_eq!(reply[at..at + 4], [value, 0, 0, 0], "at {at}");
        }
    }

    #[test]
    fn a_ready_frame_tells_version_and_pid() {
        let reply = super::encode_ready(258);
        assert_eq!(reply[..8], [129, 0, 1, 0, 2, 1, 0, 0]);
        assert_eq!(reply[8..], [0; REPLY_LEN - 8]);
    }

    #[test]
    fn names_that_a_shell_can_hold() {
        assert!(super::is_identifier(b"_a1"));
        for bad in [&b""[..], b"1a", b"a-b", b"a[0]", b"a+"] {
            assert!(!super::is_identifier(bad), "{bad:?}");
        }
    }

    #[test]
    fn values_are_quoted() {
        assert_eq!(super::quoted_assignment(b"A", b"it's"), br"A='it'\''s'");
    }

    #[test]
    fn plain_absolute_paths() {
        for plain in [&b"/"[..], b"/a", b"/a/.b"] {
            assert!(super::is_plain_absolute(plain), "{plain:?}");
        }
        for other in [&b""[..], b"a", b"/a/", b"//a", b"/a/../b", b"/."] {
            assert!(!super::is_plain_absolute(other), "{other:?}");
        }
    }
}
