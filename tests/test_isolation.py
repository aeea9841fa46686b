# ruff: noqa: E501 - probes are programs of their own, in strings
"""What user code cannot do: each test tries, from the inside, in a real sandbox."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import select
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from sandbox_runtime import (
    FileAccessError,
    IsolationError,
    Limits,
    Runtime,
    Sandbox,
    SandboxError,
    SandboxLostError,
    open_runtime,
    open_sandbox,
)
from sandbox_runtime.errors import InvalidArgumentError
from sandbox_runtime.interpreters.zygote import Zygote

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from sandbox_runtime.supervisor import Supervisor

pytestmark = pytest.mark.skipif(
    platform.machine() not in {"x86_64", "aarch64"},
    reason="call numbers are known for two machines",
)

PLACES = ("shell", "process", "context")

NUMBERS = {
    "x86_64": {
        "clone": 56, "ptrace": 101, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161,
        "setns": 308, "unshare": 272, "keyctl": 250, "add_key": 248, "bpf": 321,
        "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425, "kcmp": 312,
        "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438, "syslog": 103,
        "open_by_handle_at": 304, "init_module": 175, "kexec_load": 246, "swapon": 167,
        "reboot": 169, "clock_settime": 227, "fanotify_init": 300, "acct": 163, "mknodat": 259,
        "clone3": 435, "open_tree": 428, "move_mount": 429, "fsopen": 430, "mount_setattr": 442,
    },
    "aarch64": {
        "clone": 220, "ptrace": 117, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51,
        "setns": 268, "unshare": 97, "keyctl": 219, "add_key": 217, "bpf": 280,
        "perf_event_open": 241, "userfaultfd": 282, "io_uring_setup": 425, "kcmp": 272,
        "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_getfd": 438, "syslog": 116,
        "open_by_handle_at": 265, "init_module": 105, "kexec_load": 104, "swapon": 224,
        "reboot": 142, "clock_settime": 112, "fanotify_init": 262, "acct": 89, "mknodat": 33,
        "clone3": 435, "open_tree": 428, "move_mount": 429, "fsopen": 430, "mount_setattr": 442,
    },
}.get(platform.machine(), {})  # fmt: skip
NOT_IMPLEMENTED = {"clone3", "open_tree", "move_mount", "fsopen", "mount_setattr"}

PREAMBLE = f"""
import ctypes, errno, json, os, signal, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {NUMBERS!r}
def call(name, *arguments):
    result = libc.syscall(NUMBERS[name], *(ctypes.c_long(a) for a in arguments))
    return errno.errorcode[ctypes.get_errno()] if result == -1 else result
def attempt(act):
    try:
        return act() or "allowed"
    except OSError as error:
        return errno.errorcode[error.errno]
def answer(value):
    sys.stdout.write(json.dumps(value))
    sys.stdout.flush()
"""


def program(source: str) -> list[str]:
    """A Python that runs this source with the helpers above."""
    return [sys.executable, "-I", "-c", PREAMBLE + textwrap.dedent(source)]


async def ask(sandbox: Sandbox, place: str, source: str) -> Any:
    """What the source answers when it runs in a session, a process or a context."""
    if place == "context":
        execution = await sandbox.run_code(PREAMBLE + textwrap.dedent(source), deadline_s=30)
        assert execution.ended == "ok", (execution.error, execution.stderr)
        return json.loads(execution.stdout)
    if place == "shell":
        result = await sandbox.exec(program(source), deadline_s=30)
    else:
        result = await sandbox.run_process(program(source), deadline_s=30)
    assert result.exit_code == 0, result.stderr.decode()
    return json.loads(result.stdout)


@pytest.fixture(autouse=True)
def _light_zygote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zygotes of these tests import no large library: each test has one of its own."""
    make = Zygote.open

    def open_light(
        supervisor: Supervisor,
        python: str,
        preload: Sequence[str] = (),
        *,
        host_network: bool = False,
    ) -> Awaitable[Zygote]:
        return make(supervisor, python, preload, host_network=host_network)

    monkeypatch.setattr(Zygote, "open", open_light)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> str:
    """Where the attacker runs."""
    return str(request.param)


# --- processes ---------------------------------------------------------------------------------


async def test_only_processes_of_its_own_jail_are_visible(sandbox: Sandbox, place: str) -> None:
    """/proc shows init, the code itself and what runs it; nothing of the host or of other jails."""
    await sandbox.start_process(["sleep", "1000"])
    await sandbox.run_code("1")
    source = """
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        answer({pid: open(f"/proc/{pid}/comm").read().strip() for pid in pids})
    """
    seen = await ask(sandbox, place, source)
    assert seen.pop("1") == "sbx-init"
    assert len(seen) == (2 if place == "shell" else 1)
    assert "sleep" not in seen.values()


async def test_init_is_closed_to_user_code(sandbox: Sandbox, place: str) -> None:
    """Environment, memory, descriptors and binary of PID 1 are out of reach, whoever's id it has."""
    source = """
        names = ["environ", "mem", "maps", "auxv", "io", "stack", "syscall", "fd", "map_files"]
        links = ["exe", "root", "cwd", "ns/pid", "ns/user"]
        found = [attempt(lambda: os.listdir(f"/proc/1/{name}") if name in ("fd", "map_files")
                         else open(f"/proc/1/{name}", "rb").read(1)) for name in names]
        found += [attempt(lambda: os.readlink(f"/proc/1/{name}")) for name in links]
        answer(found)
    """
    assert set(await ask(sandbox, place, source)) <= {"EACCES", "EPERM"}


async def test_no_signal_harms_init(sandbox: Sandbox, place: str) -> None:
    """Every signal to PID 1 is refused or ignored; the jail goes on and can still be ended."""
    source = """
        answer([attempt(lambda: os.kill(1, number)) for number in signal.valid_signals()])
    """
    assert set(await ask(sandbox, place, source)) <= {"EPERM", "allowed"}
    assert await ask(sandbox, place, "answer(os.path.exists('/proc/1'))")


async def test_killing_everybody_ends_only_ones_own_jail(sandbox: Sandbox) -> None:
    """`kill(-1, SIGKILL)` reaches no other session, process or context of the sandbox."""
    process = await sandbox.start_process(["sleep", "1000"])
    session = await sandbox.create_session()
    await sandbox.run_code("x = 1")
    result = await session.exec("kill -9 -1; kill -9 0; sleep 1000", deadline_s=1)
    assert not result.ok
    assert process.result is None
    assert (await sandbox.run_code("x")).text == "1"
    assert (await sandbox.exec("echo alive")).stdout == b"alive\n"
    assert (await process.kill()).ended == "killed"


async def test_calls_that_reach_into_the_kernel_or_other_processes_are_refused(
    sandbox: Sandbox, place: str
) -> None:
    """The refused calls answer EPERM or ENOSYS before the kernel looks at their arguments."""
    names = sorted(set(NUMBERS) - {"clone", "mknodat"})
    source = f"answer({{name: call(name, -1, -1, -1, -1, -1) for name in {names!r}}})"
    expected = {name: "ENOSYS" if name in NOT_IMPLEMENTED else "EPERM" for name in names}
    assert await ask(sandbox, place, source) == expected


async def test_limits_of_another_process_and_its_orphans_are_out_of_reach(
    sandbox: Sandbox, place: str
) -> None:
    """A limit of processor time ends whom a signal may not; a subreaper keeps what init is to reap."""
    source = """
        import resource
        asked = []
        child = os.fork() or signal.pause()
        for pid in (1, child, os.getpid()):
            for limit in ((), ((1, 1),)):
                asked.append(attempt(lambda: resource.prlimit(pid, resource.RLIMIT_CPU, *limit)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        asked.append(attempt(lambda: libc.prctl(36, 1, 0, 0, 0) and errno.errorcode[ctypes.get_errno()]))
        resource.setrlimit(resource.RLIMIT_CPU, resource.getrlimit(resource.RLIMIT_CPU))
        answer(asked)
    """
    assert await ask(sandbox, place, source) == 7 * ["EPERM"]


async def test_clone_makes_no_namespace_and_no_sibling(sandbox: Sandbox, place: str) -> None:
    """Neither new namespaces nor CLONE_PARENT, by which a context would get the zygote's children."""
    source = """
        flags = {"time": 0, "parent": 0x8000, "mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000,
                 "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000}
        del flags["time"]
        answer([call("clone", signal.SIGCHLD | bit, 0, 0, 0, 0) for bit in flags.values()])
    """
    assert set(await ask(sandbox, place, source)) == {"EPERM"}


async def test_user_code_is_nobody(sandbox: Sandbox, place: str) -> None:
    """Ids 1000 without groups, five empty capability sets, no way to gain any, two filters."""
    source = """
        status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines()
                      if ":\\t" in line)
        raised = [attempt(lambda: os.setuid(0)), attempt(lambda: os.setgid(0)),
                  attempt(lambda: os.setgroups([0]))]
        answer([os.getresuid(), os.getresgid(), status, raised])
    """
    uids, gids, status, raised = await ask(sandbox, place, source)
    assert (uids, gids) == ([1000] * 3, [1000] * 3)
    assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"], status["TracerPid"]) == ("1", "2", "0")
    assert int(status["SigBlk"], 16) == 0
    assert set(raised) <= {"EPERM", "EINVAL"}  # EINVAL: no such id in its namespace at all
    if sandbox.report.level == 1:
        assert status["Groups"].strip() == ""


async def test_host_ids_belong_to_one_sandbox(runtime: Runtime, sandbox: Sandbox) -> None:
    """As root, no two sandboxes share an id of the host, and none has the control process's."""
    if sandbox.report.level != 1:
        pytest.skip("an ordinary user has one id, and separate_ids in the report says so")
    async with open_sandbox(runtime=runtime) as other:
        maps = set()
        for one in (sandbox, other):
            maps |= {
                line.split()[1]
                for line in (await one.exec("cat /proc/self/uid_map")).stdout.decode().splitlines()
            }
    assert len(maps) == 4
    assert str(os.getuid()) not in maps


# --- descriptors -------------------------------------------------------------------------------


async def test_a_program_holds_its_own_three_descriptors(sandbox: Sandbox, place: str) -> None:
    """Pipes and /dev/null at 0, 1, 2; a context also its socket; nothing that leads elsewhere."""
    source = """
        found = {}
        for name in os.listdir("/proc/self/fd"):
            if os.path.lexists(f"/proc/self/fd/{name}"):
                found[int(name)] = os.readlink(f"/proc/self/fd/{name}").split(":")[0]
        answer(found)
    """
    seen = await ask(sandbox, place, source)
    assert seen.pop("0") == "/dev/null"
    assert (seen.pop("1"), seen.pop("2")) == ("pipe", "pipe")
    expected = ["/dev/null", "socket"] if place == "context" else []
    assert sorted(seen.values()) == expected


async def test_the_shell_holds_no_descriptor_of_the_host(sandbox: Sandbox) -> None:
    """The shell itself has pipes, one socket, null devices and the sealed file of its builtin."""
    result = await sandbox.exec("for fd in /proc/$$/fd/*; do readlink $fd; done")
    kinds = {line.split(b":")[0] for line in result.stdout.splitlines()}
    assert kinds <= {b"pipe", b"socket", b"/dev/null"}
    assert result.stdout.count(b"socket") == 1


async def test_children_of_a_shell_inherit_no_more(sandbox: Sandbox) -> None:
    """What a shell starts with text gets the command's pipes, not the shell's socket."""
    result = await sandbox.exec("ls /proc/self/fd | tr '\\n' ' '")
    assert result.stdout.split() == [b"0", b"1", b"2", b"3"]  # 3 is the directory it lists


async def test_standard_input_leads_nowhere(sandbox: Sandbox, place: str) -> None:
    """Descriptor 0 is a null device: no directory to climb from, no mode to change."""
    source = """
        answer([attempt(lambda: os.open("..", os.O_RDONLY, dir_fd=0)),
                attempt(lambda: os.fchmod(0, 0o777)), attempt(lambda: os.fchown(0, 1000, 1000)),
                attempt(lambda: os.fchdir(0))])
    """
    # EROFS: the sandbox's own null device, in a read-only /dev.
    assert set(await ask(sandbox, place, source)) <= {"ENOTDIR", "EPERM", "EINVAL", "EROFS"}


async def test_a_context_keeps_nothing_of_the_zygote(sandbox: Sandbox) -> None:
    """No descriptor, variable, session, directory, mask or timer; its parent is out of sight."""
    source = """
        answer([os.getppid(), os.getsid(0) == os.getpid() == os.getpgrp(), os.getcwd(),
                os.umask(0o22), signal.getitimer(signal.ITIMER_REAL), sorted(os.environ),
                attempt(lambda: os.open("/dev/tty", os.O_RDWR))])
    """
    *facts, names, tty = await ask(sandbox, "context", source)
    assert facts == [0, True, "/workspace", 0o22, [0, 0]]
    assert set(names) >= {"HOME", "PATH"}
    assert not any(name.startswith(("SANDBOX", "PYTHON", "IPYTHON")) for name in names)
    assert tty == "ENXIO"


async def test_secrets_of_one_context_are_not_in_the_memory_of_another(runtime: Runtime) -> None:
    """Variables never pass through the zygote, of whose memory every later context has a copy."""
    secret = "x7Kq" + "2Wm9" * 8
    async with open_sandbox(runtime=runtime) as one, open_sandbox(runtime=runtime) as other:
        for size in (1, 30, 200):
            await one.create_code_context(env={"TOKEN": secret * size}, cwd="/tmp")
        source = f"""
            needle = ({secret[:9]!r} + {secret[9:]!r}).encode()
            half = {secret[9:]!r}
            found = 0
            for line in open("/proc/self/maps"):
                place, mode, *_ = line.split()
                low, high = (int(number, 16) for number in place.split("-"))
                if mode.startswith("rw") and "[v" not in line:
                    with open("/proc/self/mem", "rb", buffering=0) as memory:
                        memory.seek(low)
                        content = memory.read(high - low)
                    found += content.count(needle + needle)
            answer(found)
        """
        assert await ask(other, "context", source) == 0


# --- the file system ---------------------------------------------------------------------------


async def test_everything_of_the_host_is_read_only(sandbox: Sandbox, place: str) -> None:
    """Writable are what was made for the sandbox and nothing else; setuid never counts."""
    source = """
        rows = []
        for line in open("/proc/self/mountinfo"):
            left, right = line.split(" - ")
            rows.append([left.split()[4], left.split()[5].split(","), right.split()[0]])
        answer(rows)
    """
    for path, options, kind in await ask(sandbox, place, source):
        assert "nosuid" in options, path
        if "rw" in options:
            assert kind in {"proc", "devpts"} or path.startswith(
                ("/workspace", "/tmp", "/dev/", "/proc/")
            ), path
        if kind not in {"tmpfs", "proc", "devpts", "devtmpfs"}:
            assert "nodev" in options or path.startswith(("/dev/", "/proc/")), path


async def test_no_way_to_write_outside(sandbox: Sandbox, place: str) -> None:
    """Not in /, /usr, /etc or /dev, not into kernel settings, no device, no link out of it."""
    source = """
        paths = ["/x", "/usr/x", "/etc/passwd", "/dev/x", "/run/x", "/var/x", "/proc/sysrq-trigger",
                 "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname",
                 "/proc/sys/user/max_user_namespaces", "/proc/self/uid_map", "/proc/1/oom_score_adj"]
        found = [attempt(lambda: os.open(path, os.O_WRONLY | os.O_CREAT)) for path in paths[:-2]]
        found += [attempt(lambda: open(path, "w").write("0 0 1")) for path in paths[-2:]]
        found += [attempt(lambda: os.chmod("/dev/null", 0)), attempt(lambda: os.chmod("/usr", 0o777)),
                  attempt(lambda: os.mknod("/tmp/device", 0o20666, os.makedev(1, 1))),
                  attempt(lambda: os.link("/usr/bin/env", "/tmp/env"))]
        answer(found)
    """
    found = await ask(sandbox, place, source)
    # ENOENT: a kernel that has no such file.
    assert set(found) <= {"EACCES", "EPERM", "EROFS", "EXDEV", "ENOENT"}, found


async def test_the_hosts_files_do_not_exist(sandbox: Sandbox, place: str, tmp_path: Path) -> None:
    """Homes, temporary files, secrets, control groups and sockets of the host have no name here."""
    (tmp_path / "secret").write_text("s")
    paths = [
        "/etc/shadow", "/etc/ssh", "/sys", "/boot", "/var/run/docker.sock", "/run/dbus",
        "/dev/mem", "/dev/kmsg", "/dev/fuse", "/dev/vda", "/dev/vsock", "/dev/net",
        str(tmp_path / "secret"), "/proc/self/root/sys", "/proc/self/cwd/../../sys",
    ]  # fmt: skip
    source = f"answer([path for path in {paths!r} if os.path.exists(path)])"
    assert await ask(sandbox, place, source) == []


async def test_watching_files_leaves_the_host_its_share(sandbox: Sandbox, place: str) -> None:
    """Counts of inotify go up to the caller's user: a sandbox has an eighth of what that may."""
    source = """
        made, why = 0, None
        while why is None:
            if libc.inotify_init1(0) >= 0:
                made += 1
            else:
                why = errno.errorcode[ctypes.get_errno()]
        settings = [int(open(f"/proc/sys/user/max_inotify_{kind}").read())
                    for kind in ("instances", "watches")]
        answer([made, why, *settings])
    """
    host = Path("/proc/sys/fs/inotify")
    if not host.exists():
        pytest.skip("this kernel has no inotify")
    instances, watches = (
        max(1, int((host / f"max_user_{kind}").read_text()) // 8)
        for kind in ("instances", "watches")
    )
    made, why, *settings = await ask(sandbox, place, source)
    assert settings == [instances, watches]
    assert made <= instances
    assert why == "EMFILE"


async def test_all_sandboxes_together_leave_the_host_half(runtime: Runtime) -> None:
    """Eight of them with all that each may have would be as many as the caller's user has."""
    host = Path("/proc/sys/fs/inotify/max_user_instances")
    if not host.exists() or not 16 <= (most := int(host.read_text())) <= 1024:
        pytest.skip("this kernel allows none, or more than a test should make")
    source = """
        made = 0
        while libc.inotify_init1(0) >= 0:
            made += 1
        answer(made)
    """
    total = 0
    async with contextlib.AsyncExitStack() as sandboxes:
        for _ in range(5):
            sandbox = await sandboxes.enter_async_context(open_sandbox(runtime=runtime))
            total += await ask(sandbox, "context", source)  # and holds what it has made
    assert total <= most // 2


async def test_limits_cannot_be_raised(sandbox: Sandbox, place: str) -> None:
    """No core dumps, and no hard limit goes up again; neither does priority."""
    source = """
        import resource
        def more(kind):
            soft, hard = resource.getrlimit(kind)
            resource.setrlimit(kind, (hard, resource.RLIM_INFINITY))
        answer([resource.getrlimit(resource.RLIMIT_CORE),
                [attempt(lambda: more(getattr(resource, "RLIMIT_" + name)))
                 if hasattr(resource, "RLIMIT_" + name) else "EPERM"
                 for name in ("CORE", "NPROC", "NOFILE", "FSIZE", "DATA", "MEMLOCK", "RTPRIO")],
                attempt(lambda: os.nice(-5)),
                attempt(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))])
    """

    def denied(value: Any) -> bool:
        return value in ("EPERM", "EACCES", "ValueError")

    source = textwrap.dedent(source).replace(
        "    resource.setrlimit(kind, (hard, resource.RLIM_INFINITY))",
        "    try:\n"
        "        resource.setrlimit(kind, (hard, resource.RLIM_INFINITY))\n"
        "    except ValueError:\n"
        "        return 'EPERM'",
    )
    core, raised, nice, scheduler = await ask(sandbox, place, source)
    assert core == [0, 0]
    assert all(map(denied, [*raised, nice, scheduler])), (raised, nice, scheduler)


async def test_a_terminal_of_its_own_cannot_be_typed_into(sandbox: Sandbox, place: str) -> None:
    """TIOCSTI is refused, with garbage in the high half of the request as well."""
    source = """
        main, other = os.openpty()
        found = []
        for request in (0x5412, 0x5412 | 1 << 40, 0x541C):
            result = libc.ioctl(other, ctypes.c_ulong(request), ctypes.c_char_p(b"x"))
            found.append(result == -1 and errno.errorcode[ctypes.get_errno()])
        answer(found)
    """
    assert await ask(sandbox, place, source) == ["EPERM"] * 3


async def test_no_file_can_be_leased(sandbox: Sandbox, place: str) -> None:
    """Whoever executes one that is sleeps in the kernel for 45 s, whatever its deadline is."""
    source = """
        import fcntl
        with open("/tmp/leased", "w") as one:
            answer([attempt(lambda: fcntl.fcntl(one, command, fcntl.F_WRLCK))
                    for command in (fcntl.F_SETLEASE, 1040)] + [fcntl.fcntl(one, fcntl.F_GETFD)])
    """
    assert await ask(sandbox, place, source) == ["EPERM", "EPERM", 1]


# --- the network -------------------------------------------------------------------------------


async def test_the_hosts_network_is_out_of_reach(sandbox: Sandbox, place: str) -> None:
    """A port and an abstract socket that listen on the host cannot be connected to."""
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as abstract:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        name = f"sandbox-test-{os.getpid()}"
        abstract.bind(f"\0{name}")
        abstract.listen()
        source = f"""
            def connect(family, address):
                with socket.socket(family) as one:
                    one.connect(address)
            answer([[name for _, name in socket.if_nameindex()],
                    attempt(lambda: connect(socket.AF_INET, ("127.0.0.1", {tcp.getsockname()[1]}))),
                    attempt(lambda: connect(socket.AF_INET, ("169.254.169.254", 80))),
                    attempt(lambda: connect(socket.AF_UNIX, "\\0{name}"))])
        """
        names, *refusals = await ask(sandbox, place, source)
    assert names == ["lo"]
    assert refusals == ["ECONNREFUSED", "ENETUNREACH", "ECONNREFUSED"]


async def test_sockets_of_odd_families_cannot_be_made(sandbox: Sandbox, place: str) -> None:
    """Only Unix, IP and routing sockets; no raw ones, no crypto, no hypervisor, no packets, and of
    IP no protocol whose driver would be loaded for it."""
    source = """
        def make(*how):
            socket.socket(*how).close()
        odd = [attempt(lambda: make(family, kind, protocol)) for family, kind, protocol in [
            (38, 5, 0), (40, 1, 0), (17, 3, 0), (29, 3, 1), (16, 3, 9), (16, 3, 12),
            (2, 3, 1), (2, 10, 0), (2, 5, 0), (2, 1, 132), (10, 1, 132), (2, 6, 33), (2, 2, 115)]]
        plain = [attempt(lambda: make(family, kind, 0)) for family in (1, 2, 10) for kind in (1, 2)]
        answer([odd, plain])
    """
    odd, plain = await ask(sandbox, place, source)
    assert set(odd) <= {"EAFNOSUPPORT", "EPERM", "EPROTONOSUPPORT"}
    assert set(plain) <= {"allowed", "EAFNOSUPPORT"}  # a host without IPv6


async def test_two_sandboxes_share_nothing(runtime: Runtime) -> None:
    """Files, memory, ports and abstract sockets of one do not exist in the other."""
    async with open_sandbox(runtime=runtime) as one, open_sandbox(runtime=runtime) as other:
        ready = trio.Event()
        source = """
            for path in ("/workspace/x", "/tmp/x", "/dev/shm/x"):
                open(path, "w").close()
            listeners = [socket.create_server(("127.0.0.1", 4321)), socket.socket(socket.AF_UNIX)]
            listeners[1].bind("\\0meeting")
            listeners[1].listen()
            answer("listening")
            signal.pause()
        """

        def heard(_: bytes) -> None:
            ready.set()

        process = await one.start_process(program(source), on_stdout=heard)
        await ready.wait()
        source = """
            def connect(family, address):
                with socket.socket(family) as one:
                    one.connect(address)
            answer([[path for path in ("/workspace/x", "/tmp/x", "/dev/shm/x") if os.path.exists(path)],
                    attempt(lambda: connect(socket.AF_INET, ("127.0.0.1", 4321))),
                    attempt(lambda: connect(socket.AF_UNIX, "\\0meeting"))])
        """
        assert await ask(other, "process", source) == [[], "ECONNREFUSED", "ECONNREFUSED"]
        assert await ask(one, "process", source) == [
            ["/workspace/x", "/tmp/x", "/dev/shm/x"], "allowed", "allowed"
        ]  # fmt: skip
        await process.kill()


# --- exhaustion, and outrunning the end ----------------------------------------------------------


async def survivors(sandbox: Sandbox) -> list[str]:
    """Who else is alive in the session's jail, with any thread; zombies are not."""
    source = """
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            tasks = [open(f"/proc/{pid}/task/{task}/stat").read() for task in os.listdir(f"/proc/{pid}/task")]
            if any(task.rpartition(") ")[2][0] not in "ZX" for task in tasks):
                found.append(open(f"/proc/{pid}/comm").read().strip())
        answer(sorted(found))
    """
    names = list(await ask(sandbox, "shell", source))
    for own in ("sbx-init", "bash", Path(sys.executable).name):
        names.remove(own)
    return names


async def test_a_fork_bomb_ends_at_the_deadline(sandbox: Sandbox) -> None:
    """All its processes are gone, and the same session runs the next command."""
    result = await sandbox.exec("bomb() { bomb | bomb & }; bomb; sleep 1000", deadline_s=0.5)
    assert result.ended == "deadline"
    assert (await sandbox.exec("jobs -r; echo alive", deadline_s=10)).stdout == b"alive\n"


async def test_a_chain_of_forks_does_not_outrun_its_end(sandbox: Sandbox) -> None:
    """A process that forks and exits without pause, behind hundreds of others, is ended too."""
    source = """
        for _ in range(200):
            if os.fork() == 0:
                signal.pause()
        for _ in range(4):
            if os.fork() == 0:
                os.setsid()
                while True:
                    if os.fork():
                        os._exit(0)
        signal.pause()
    """
    result = await sandbox.exec(program(source), deadline_s=1.5)
    assert result.ended == "deadline"
    assert await survivors(sandbox) == []


async def test_a_process_whose_first_thread_has_ended_is_ended_too(sandbox: Sandbox) -> None:
    """It looks like a zombie while its other threads run on."""
    source = """
        import threading
        threading.Thread(target=signal.sigwait, args=({signal.SIGUSR1},)).start()
        os.write(1, b"started")
        call_exit = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
        libc.syscall(call_exit, 0)
    """
    result = await sandbox.exec(["sh", "-c", '"$@" & exec sleep 1000', "sh", *program(source)],
                                deadline_s=2)  # fmt: skip
    assert (result.ended, result.stdout) == ("deadline", b"started")
    assert await survivors(sandbox) == []


async def test_more_processes_than_descriptors_are_ended(runtime: Runtime) -> None:
    """Init may hold 256 descriptors and ends 300 processes."""
    limits = Limits(open_files=256, processes=400)
    async with open_sandbox(runtime=runtime, limits=limits) as sandbox:
        text = "for i in $(seq 300); do sleep 1000 & done; echo $! >/workspace/last; wait"
        result = await sandbox.exec(text, deadline_s=3)
        assert result.ended == "deadline"
        assert await survivors(sandbox) == []
        assert await sandbox.files.read("/workspace/last")  # all 300 were there


async def test_a_full_disk_is_the_sandboxs_own(runtime: Runtime) -> None:
    """Space and inodes run out with ENOSPC; the other directories and the session go on."""
    limits = Limits(workspace_bytes=1 << 20, tmp_bytes=1 << 20)
    async with open_sandbox(runtime=runtime, limits=limits) as sandbox:
        full = await sandbox.exec("head -c 5M /dev/zero >/workspace/x")
        assert b"No space left" in full.stderr
        with pytest.raises(FileAccessError) as refused:
            await sandbox.files.write("/workspace/y", b"y" * 100_000)
        assert refused.value.errno == 28
        source = """
            try:
                for number in range(10**6):
                    open(f"/tmp/{number}", "x").close()
            except OSError as error:
                answer([errno.errorcode[error.errno], number < 5000])
        """
        assert await ask(sandbox, "process", source) == ["ENOSPC", True]
        assert (await sandbox.exec("rm /workspace/x; echo ok >/workspace/z")).ok


async def test_memory_is_bounded_for_each_process(runtime: Runtime) -> None:
    """Allocating more than the limit fails or kills the program, and nobody else."""
    async with open_sandbox(runtime=runtime, limits=Limits(memory_bytes=256 << 20)) as sandbox:
        result = await sandbox.exec([sys.executable, "-I", "-c", "x = bytearray(1 << 30)"])
        assert result.exit_code != 0
        assert b"MemoryError" in result.stderr or result.exit_code == 137
        assert (await sandbox.exec("echo alive")).stdout == b"alive\n"


async def test_memory_of_all_processes_together_is_bounded(runtime: Runtime) -> None:
    """Files in memory count too: whoever fills them loses processes, or the sandbox, with a name."""
    async with open_sandbox(runtime=runtime, limits=Limits(memory_bytes=64 << 20)) as sandbox:
        if sandbox.report["cgroup_memory"].achieved != "full":
            pytest.skip(f"no control group here: {sandbox.report['cgroup_memory'].detail}")
        try:
            result = await sandbox.exec("head -c 300M /dev/zero >/workspace/x", deadline_s=20)
        except SandboxLostError:
            pass
        else:
            assert not result.ok
    async with open_sandbox(runtime=runtime) as other:
        assert (await other.exec("echo alive")).stdout == b"alive\n"


async def test_what_is_swapped_out_is_not_had_beside_the_limit_of_memory(runtime: Runtime) -> None:
    """The sandbox's group limits memory with swap, or has no swap."""
    limits = Limits(memory_bytes=64 << 20)
    async with open_sandbox(runtime=runtime, limits=limits) as sandbox:
        if sandbox.report["cgroup_memory"].achieved != "full":
            pytest.skip(f"no control group here: {sandbox.report['cgroup_memory'].detail}")
        keeper = family(runtime.supervisor._launcher_pid)["sbx-keeper"]
        for line in Path(f"/proc/{keeper}/cgroup").read_text().splitlines():
            _, controllers, below = line.split(":", 2)
            mounted = {"memory": "memory", "": "."}.get(controllers)
            for name in ("memory.memsw.limit_in_bytes", "memory.swap.max", "memory.swappiness"):
                file = Path("/sys/fs/cgroup", mounted or "-", below.lstrip("/"), name)
                if file.exists():
                    assert int(file.read_text()) == (64 << 20 if "memsw" in name else 0)
                    return
    pytest.skip("its group cannot be looked at from here")


async def test_processes_are_bounded(runtime: Runtime) -> None:
    """The limit holds; what cannot be started is an error with a name, and later it can again."""
    async with open_sandbox(runtime=runtime, limits=Limits(processes=40)) as sandbox:
        source = """
            started = 0
            try:
                while True:
                    if os.fork() == 0:
                        signal.pause()
                    started += 1
            except BlockingIOError:
                answer(started)
                signal.pause()
        """
        heard = trio.Event()
        process = await sandbox.start_process(program(source), on_stdout=lambda _: heard.set())
        await heard.wait()
        with pytest.raises(SandboxError):
            await sandbox.run_process("true")
        result = await process.kill()
        assert 10 < int(result.stdout) < 40
        assert (await sandbox.run_process("true")).ok


# --- lies over the private sockets ---------------------------------------------------------------


async def test_a_forged_answer_of_the_shell_harms_only_that_session(sandbox: Sandbox) -> None:
    """Whatever user code writes to the shell's socket, calls end with a result or a typed error."""
    forge = """
        import struct
        for fd in map(int, os.listdir("/proc/self/fd")):
            try:
                one = socket.socket(fileno=os.dup(fd))
            except OSError:
                continue
            if one.type == socket.SOCK_SEQPACKET:
                for kind, error in ((130, 0), (129, 0), (130, 3), (130, 99), (7, 7)):
                    one.send(struct.pack("<BBHiQQQQIiII", kind, 255, error, -1, 1, 2**64 - 1,
                                         2**64 - 1, 2**64 - 1, 1, 2**31 - 1, 2**32 - 1, 0))
                one.send(b"x" * 100)
    """
    await sandbox.files.write("/workspace/forge.py", PREAMBLE + textwrap.dedent(forge))
    for number in range(5):
        session = await sandbox.create_session()
        text = (f"for fd in /proc/$$/fd/2??; do n=${{fd##*/}}; "
                f"{sys.executable} -I /workspace/forge.py {number} 7<&$n 8>&$n; done")  # fmt: skip
        with contextlib.suppress(SandboxError):
            await session.exec(text, deadline_s=5)
        with contextlib.suppress(SandboxError):
            await session.exec("echo next", deadline_s=5)
        assert (await session.exec("echo later", deadline_s=5)).ended in {"exit", "session lost"}
        await session.aclose()
    assert (await sandbox.exec("echo other")).stdout == b"other\n"


@pytest.mark.parametrize(
    "body",
    [
        'b"[" * 200_000',
        'b"[1]"',
        'b"no JSON"',
        r'b"\xff\xfe"',
        'b\'{"type": "display", "id": "1", "data": [1]}\'',
        'b\'{"type": "error", "id": "1", "traceback": 5}\'',
        'b\'{"type": "done", "id": "1", "usage": [1]}\'',
        'b\'{"type": "done", "id": "1", "usage": {"user_us": -1}}\'',
        'b\'{"type": "done", "id": "1", "execution_count": "x"}\'',
        'b\'{"type": "result", "id": 1}\'',
    ],
)
async def test_a_forged_frame_ends_its_context_and_nothing_else(
    sandbox: Sandbox, body: str
) -> None:
    """User code can write to its context's socket: the run is over, the next gets a new context."""
    code = f"""
        import os, socket
        body = {body}
        for fd in map(int, os.listdir("/proc/self/fd")):
            if os.path.lexists(f"/proc/self/fd/{{fd}}") and "socket" in os.readlink(f"/proc/self/fd/{{fd}}"):
                os.write(fd, len(body).to_bytes(4, "big") + body)
    """
    execution = await sandbox.run_code(textwrap.dedent(code), deadline_s=10)
    assert (execution.ended, execution.state_survived) == ("context lost", False)
    assert (await sandbox.run_code("1 + 1")).text == "2"


async def test_a_huge_frame_is_not_waited_for(sandbox: Sandbox) -> None:
    """A length of 4 GiB ends the context at once."""
    code = "import os\nfor fd in (200, 201, 202):\n try: os.write(fd, b'\\xff' * 8)\n except OSError: pass"
    execution = await sandbox.run_code(code, deadline_s=10)
    assert execution.ended == "context lost"


async def test_results_beyond_the_limit_are_counted_not_kept(sandbox: Sandbox) -> None:
    """User code that shows without end does not fill the memory of the control process."""
    heard = 0

    def hear(_: object) -> None:
        nonlocal heard
        heard += 1

    execution = await sandbox.run_code(
        "for _ in range(100): display('x' * 10_000)", limit_bytes=100_000, on_result=hear
    )
    assert (execution.ended, heard) == ("ok", 100)
    assert 5 < len(execution.results) < 10
    assert execution.results_dropped == 100 - len(execution.results)
    assert execution.truncated


async def test_a_context_that_does_not_read_cannot_hold_its_caller(sandbox: Sandbox) -> None:
    """A stopped interpreter and more code than its socket takes: the deadline ends the context."""
    context = await sandbox.create_code_context()
    code = """
        import os, signal, sys
        class Last:
            def flush(self): os.kill(os.getpid(), signal.SIGSTOP)
            def write(self, text): return len(text)
            closed = False
        import threading
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGSTOP)).start()
    """
    await context.run(textwrap.dedent(code))
    # Stopped before, during or after the transfer: in any case it never answers.
    execution = await context.run(
        "import time; time.sleep(600)\n#" + "x" * 3_000_000, deadline_s=0.5
    )
    assert (execution.ended, execution.state_survived) == ("deadline", False)


async def test_writers_that_come_and_go_do_not_hold_the_reader(sandbox: Sandbox) -> None:
    """A job that keeps a reader of its command's pipe and opens writers on it ends no event loop."""
    source = """
        if os.fork():
            os._exit(0)
        os.setsid()
        reader = os.open("/proc/self/fd/1", os.O_RDONLY | os.O_NONBLOCK)
        os.close(1)
        os.close(2)
        while True:
            os.close(os.open(f"/proc/self/fd/{reader}", os.O_WRONLY | os.O_NONBLOCK))
    """
    await sandbox.files.write("/workspace/p.py", PREAMBLE + textwrap.dedent(source))
    for _ in range(5):
        result = await sandbox.exec([sys.executable, "-I", "/workspace/p.py"], deadline_s=10)
        assert result.ended == "exit"


# --- the file service ----------------------------------------------------------------------------


async def test_the_file_service_follows_links_only_inside(sandbox: Sandbox) -> None:
    """A link means what it means to user code; what is no regular file is refused, not waited for."""
    await sandbox.exec(
        "ln -s /etc/shadow a; ln -s /proc/1/environ b; ln -s /dev/zero c; mkfifo d; ln -s d e;"
        "ln -s /usr/bin/x f; ln -s g g; ln -s /proc/self/mem h; ln -s ../../../../sys i"
    )
    for name in "abcdegi":
        with pytest.raises(FileAccessError):
            await sandbox.files.read(name)
    for name in "bcdefg":
        with pytest.raises(FileAccessError):
            await sandbox.files.write(name, b"x")
    await sandbox.files.write("fine", b"x")
    assert await sandbox.files.read("fine") == b"x"


async def test_a_path_that_is_swapped_all_the_time_stays_inside(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """A directory and a link to the host's take turns: nothing is written outside."""
    ready = trio.Event()
    source = f"""
        os.mkdir("real"); os.symlink({str(tmp_path)!r}, "link")
        libc.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p] * 2 + [ctypes.c_uint]
        answer("swapping")
        while True:
            libc.renameat2(-100, b"real", -100, b"link", 2)
    """
    await sandbox.start_process(program(source), on_stdout=lambda _: ready.set())
    await ready.wait()
    for number in range(200):
        with contextlib.suppress(FileAccessError):
            await sandbox.files.write(f"real/{number}", b"x")
    assert list(tmp_path.iterdir()) == []


# --- the end of our own processes ----------------------------------------------------------------


def family(pid: int) -> dict[str, int]:
    """Descendants of a process by name, the last of each name."""
    found: dict[str, int] = {}
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return found
    for child in map(int, children):
        found[Path(f"/proc/{child}/comm").read_text().strip()] = child
        found |= family(child)
    return found


@contextlib.contextmanager
def pidfd(pid: int) -> Iterator[int]:
    """A descriptor that becomes readable when that process has ended."""
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


async def try_everything(sandbox: Sandbox) -> list[str]:
    """Uses each part of a sandbox; how each attempt ended."""
    acts: list[Callable[[], Awaitable[object]]] = [
        lambda: sandbox.exec("echo"),
        lambda: sandbox.run_process("echo"),
        lambda: sandbox.run_code("1"),
        lambda: sandbox.files.read("/etc/passwd"),
        sandbox.create_session,
        sandbox.create_code_context,
    ]
    names = []
    for act in acts:
        with trio.fail_after(10):
            try:
                names.append(getattr(await act(), "ended", "fine"))
            except SandboxError as error:
                names.append(type(error).__name__)
    return names


@pytest.mark.parametrize("victim", ["launcher", "sbx-supervisor", "sbx-keeper"])
@pytest.mark.parametrize("busy", [True, False])
async def test_the_death_of_a_native_process_is_a_typed_error(victim: str, *, busy: bool) -> None:
    """Every call says that the sandbox is lost, at once; blocks that own it still close."""
    with trio.fail_after(30):
        async with open_runtime() as runtime, open_sandbox(runtime=runtime) as sandbox:
            await sandbox.exec("echo")
            await sandbox.run_code("1")
            await sandbox.files.read("/etc/passwd")
            launcher = runtime.supervisor._launcher_pid
            pid = launcher if victim == "launcher" else family(launcher)[victim]

            async def kill() -> None:
                with pidfd(pid) as fd:
                    os.kill(pid, signal.SIGKILL)
                    if victim != "launcher":
                        await trio.lowlevel.wait_readable(fd)

            if busy:
                started = trio.Event()
                async with trio.open_nursery() as nursery:

                    async def run() -> None:
                        result = await sandbox.exec(
                            "echo; sleep 1000", on_stdout=lambda _: started.set()
                        )
                        assert result.ended == "session lost"

                    nursery.start_soon(run)
                    await started.wait()
                    await kill()
            else:
                await kill()
            found = set(await try_everything(sandbox))
            if victim != "launcher":  # whose end takes a moment to reach the others
                assert "SandboxLostError" in found
                # A file of a service that is still there, a context that was ready in the pool.
                lost = {"SandboxLostError", "session lost", "sandbox lost", "context lost"}
                assert found <= lost, found
            if victim == "sbx-keeper":
                async with open_sandbox(runtime=runtime) as other:
                    assert (await other.exec("echo alive")).stdout == b"alive\n"
            elif victim == "sbx-supervisor":
                with pytest.raises((SandboxLostError, IsolationError)):
                    async with open_sandbox(runtime=runtime):
                        pass


async def test_the_death_of_a_zygote_ends_no_context(runtime: Runtime, sandbox: Sandbox) -> None:
    """Contexts live on, and the next one comes from a new zygote."""
    context = await sandbox.create_code_context()
    await context.run("x = 7")
    zygote = await runtime.python_zygote()
    launcher = runtime.supervisor._launcher_pid
    supervisor = family(launcher)["sbx-supervisor"]
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    pid = next(
        int(child)
        for child in children
        if not Path(f"/proc/{child}/comm").read_text().startswith("sbx-")
    )
    # A context that it has just begun to make may hold the other end for a moment longer.
    with pidfd(pid) as fd, zygote._socket.dup() as sock:
        os.kill(pid, signal.SIGKILL)
        await trio.lowlevel.wait_readable(fd)
        await trio.lowlevel.wait_readable(sock)
    await trio.testing.wait_all_tasks_blocked()  # its owner hears of it
    assert zygote.lost
    assert (await context.run("x")).text == "7"
    other = await sandbox.create_code_context(cwd="/tmp")
    assert (await other.run("1 + 1")).text == "2"


async def test_a_killed_init_is_a_lost_session_and_the_next_one_is_fresh(
    runtime: Runtime, sandbox: Sandbox
) -> None:
    """The result says so, and what was kept in the shell is gone."""
    await sandbox.exec("x=1")
    pid = family(runtime.supervisor._launcher_pid)["sbx-init"]
    with pidfd(pid) as fd:
        os.kill(pid, signal.SIGKILL)
        await trio.lowlevel.wait_readable(fd)
    first = await sandbox.exec("echo $x")
    if first.ended == "session lost":
        first = await sandbox.exec("echo $x")
    assert first.stdout == b"\n"


SCRIPT = """
import os, signal, sys, trio
from sandbox_runtime import open_runtime, open_sandbox

async def main():
    async with open_runtime() as runtime, open_sandbox(runtime=runtime) as sandbox:
        await sandbox.run_code("1")
        await sandbox.start_process(["sleep", "1000"])
        print(runtime.supervisor._launcher_pid, flush=True)
        try:
            await trio.sleep_forever()
        finally:
            print("closing", flush=True)

trio.run(main)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
async def test_nothing_outlives_the_control_process(how: signal.Signals) -> None:
    """Killed, or interrupted with its whole process group: every process and group is gone."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-P", "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        launcher = int((await process.stdout.receive_some()).split()[0])
        below = family(launcher)
        assert "sleep" in below
        with contextlib.ExitStack() as stack:
            fds = [stack.enter_context(pidfd(pid)) for pid in (launcher, *below.values())]
            os.killpg(process.pid, how)
            with trio.fail_after(10):
                for fd in fds:
                    await trio.lowlevel.wait_readable(fd)
        await process.wait()
        groups = Path("/sys/fs/cgroup")
        left = [*groups.glob(f"**/sandbox-runtime-{launcher}-*")] if groups.is_dir() else []
        assert left == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def test_a_close_waits_for_the_end(runtime: Runtime) -> None:
    """When a sandbox's block is left, each of its processes has ended."""
    async with open_sandbox(runtime=runtime) as sandbox:
        await sandbox.exec("setsid sleep 1000 & setsid sh -c 'sleep 1000 & sleep 1000' &")
        await sandbox.start_process(["sleep", "1000"])
        await sandbox.run_code("import os\nif os.fork() == 0: os.execlp('sleep', 'sleep', '1000')")
        fds = [os.pidfd_open(pid) for pid in family(runtime.supervisor._launcher_pid).values()]
        keeper = family(runtime.supervisor._launcher_pid)["sbx-keeper"]
        below = [os.pidfd_open(pid) for pid in family(keeper).values()]
    poll = select.poll()
    for fd in below:
        poll.register(fd, select.POLLIN)
    assert len(poll.poll(0)) == len(below) > 1
    for fd in (*fds, *below):
        os.close(fd)


async def test_nobody_can_write_to_what_a_keeper_executes(runtime: Runtime) -> None:
    """Its text was copied to a huge page; neither that nor anything else is both."""
    async with open_sandbox(runtime=runtime):
        keeper = family(runtime.supervisor._launcher_pid)["sbx-keeper"]
        try:
            told = Path(f"/proc/{keeper}/smaps").read_text()
        except PermissionError:
            pytest.skip("NOT TESTED: a keeper's memory map is root's alone to read here")
    maps: list[tuple[str, dict[str, str]]] = []
    for line in told.splitlines():
        first, *rest = line.split()
        if first.endswith(":"):
            maps[-1][1][first] = rest[0]
        else:
            maps.append((rest[0], {}))
    executable = [(flags, of) for flags, of in maps if "x" in flags]
    assert executable
    assert not [flags for flags, _ in executable if "w" in flags]
    if not any(int(of.get("AnonHugePages:", "0")) for _, of in executable):
        pytest.skip("NOT TESTED: the kernel had no huge page for its text")


BURN = "for i in 1 2; do (timeout 1 bash -c 'while :; do :; done') & done; wait; times"


async def test_processor_time_of_all_processes_together_is_bounded(runtime: Runtime) -> None:
    limits = Limits(cpu_percent=20)
    async with open_sandbox(runtime=runtime, limits=limits) as sandbox:
        row = sandbox.report["cgroup_cpu"]
        if row.achieved != "full":
            assert "cgroup_cpu" in [each.name for each in sandbox.report.missing]
            pytest.skip(f"NOT TESTED: processor time cannot be limited here: {row.detail}")
        assert "20 % of a processor" in row.detail
        result = await sandbox.exec(BURN)
        assert result.receipt.user_s is not None
        assert result.receipt.user_s < 0.8 * result.receipt.wall_s


async def test_a_bound_on_processor_time_is_reported_only_where_one_was_asked_for(
    sandbox: Sandbox, runtime: Runtime
) -> None:
    assert "cgroup_cpu" not in [row.name for row in sandbox.report.protections]
    with pytest.raises(InvalidArgumentError, match="cpu_percent"):
        async with open_sandbox(runtime=runtime, require=["cgroup_cpu"]):
            pass
