"""`sandbox-runtime serve` as an operator sees it: a real process, its signals, its log."""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from sandbox_runtime.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVERYWHERE = "0.0.0.0"  # noqa: S104 - that this is refused is tested
SERVE = [sys.executable, "-P", "-m", "sandbox_runtime", "serve"]


class Served:
    """A server that runs, and what it has logged so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log = ""
        self.addresses: list[str] = []

    def wait_for(self, text: str) -> str:
        """The line of the log with this in it; reads on until it comes."""
        assert self.process.stderr is not None
        while line := self.process.stderr.readline():
            self.log += line
            if text in line:
                return line
        raise AssertionError(f"no {text!r} in the log:\n{self.log}")

    @property
    def port(self) -> int:
        match = re.search(r"http://[^ ,]*:(\d+)", self.log)
        assert match is not None
        return int(match[1])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def get(self, path: str, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with closing(connection):
            connection.request("GET", path, headers=headers)
            return connection.getresponse()

    def end(self, number: int = signal.SIGTERM) -> float:
        """Ends it; how long that took."""
        started_s = time.monotonic()
        self.process.send_signal(number)
        self.process.wait()
        return time.monotonic() - started_s


@contextmanager
def serving(
    *options: str, prefix: list[str] | None = None, env: dict[str, str] | None = None
) -> Iterator[Served]:
    command = [*(prefix or []), *SERVE, *options]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (env or {}),
    ) as process:
        assert process.stdout is not None
        served = Served(process)
        try:
            served.wait_for("ready")
            for _ in range(len(re.findall("http://|unix:", served.log))):
                served.addresses.append(process.stdout.readline().strip())
            yield served
        finally:
            process.kill()


def refusal(*options: str, **env: str) -> tuple[int, str]:
    """Status and message of a server that does not start."""
    done = subprocess.run(
        [*SERVE, *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | env,
    )
    return done.returncode, done.stderr


# -- begin and end


def test_a_server_that_is_to_end_with_its_standard_input_needs_a_pipe_there() -> None:
    with open(os.devnull) as null:
        done = subprocess.run(
            [*SERVE, "--port", "0", "--until-stdin-ends"],
            check=False,
            stdin=null,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert done.returncode == 2
    assert "--until-stdin-ends: the standard input is no pipe" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_with_status_0_in_less_than_a_second(number: int) -> None:
    took_s: list[float] = []
    while not took_s or (min(took_s) >= 1 and len(took_s) < 3):  # others may have the processor
        with serving("--port", "0") as served:
            assert served.get("/api/ping").status == 200
            took_s.append(served.end(number))
            assert served.process.returncode == 0
    assert min(took_s) < 1


def test_a_server_under_nohup_outlives_its_terminal() -> None:
    with serving("--port", "0", prefix=["env", "--ignore-signal=HUP"]) as served:
        served.process.send_signal(signal.SIGHUP)
        assert served.get("/api/ping").status == 200
        served.end()
        assert served.process.returncode == 0


def test_a_connection_that_is_idle_does_not_hold_the_end_up() -> None:
    with serving("--port", "0") as served, served.connect() as idle:
        idle.sendall(b"GET /api/ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(100)
        assert served.end() < 1


def send_post(client: socket.socket, path: str, **fields: str) -> None:
    content = json.dumps(fields).encode()
    head = f"POST /api/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    client.sendall(head.encode() + content)


def test_a_request_that_runs_is_finished_before_the_end() -> None:
    with serving("--port", "0", "--grace", "20") as served, served.connect() as client:
        send_post(client, "session/create", id="s")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        send_post(client, "execute", id="s", command="sleep 0.5; echo done")
        served.process.terminate()
        served.wait_for("ending")
        with client.makefile("rb") as answer:
            assert b"done" in answer.read()
        assert served.process.wait() == 0


def test_a_request_that_runs_too_long_is_cancelled_after_the_grace() -> None:
    with serving("--port", "0", "--grace", "0.2") as served, served.connect() as client:
        send_post(client, "session/create", id="s")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        send_post(client, "execute/stream", id="s", command="echo up; sleep 60")
        with client.makefile("rb") as events:
            while b"up" not in events.readline():
                pass
            assert served.end() < 5
        assert served.process.returncode == 0


def test_what_started_it_reads_where_it_listens_on_standard_output() -> None:
    with serving("--port", "0") as served:
        assert served.addresses == [f"http://127.0.0.1:{served.port}"]


def test_the_ready_line_says_where_and_how_well_it_isolates() -> None:
    with serving("--port", "0", "--log-format", "json") as served:
        ready = json.loads(served.log.splitlines()[-1])
        assert ready["event"] == "ready"
        assert ready["addresses"] == f"http://127.0.0.1:{served.port}"
        assert ready["isolation_level"] in {1, 2}
        assert ready["authentication"] == "none"


def test_commands_are_not_logged() -> None:
    with serving("--port", "0", "--log-level", "debug") as served:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        with closing(connection):
            for path, body in (
                ("session/create", {"id": "s"}),
                ("execute", {"id": "s", "command": "echo hunter2"}),
            ):
                connection.request("POST", f"/api/{path}", json.dumps(body))
                assert connection.getresponse().read()
        served.end()
        assert served.process.stderr is not None
        assert "hunter2" not in served.log + served.process.stderr.read()


# -- where it listens


def test_a_port_that_is_taken_is_said_so() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        status, message = refusal("--port", str(port))
        assert status == 125
        assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in message
        assert "--port" in message


def test_a_unix_socket_is_for_its_owner_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with serving("--unix", str(path)) as served:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /api/ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
        assert "http://" not in served.log  # no port besides
        served.end()
    assert not path.exists()


def test_a_unix_socket_that_a_dead_server_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serving("--unix", str(path)) as served:
        served.end()


def test_a_unix_socket_that_is_in_use_and_a_file_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen()
        assert "Address already in use" in refusal("--unix", str(path))[1]
    file = tmp_path / "precious"
    file.write_text("x")
    assert "Address already in use" in refusal("--unix", str(file))[1]
    assert file.read_text() == "x"


# -- who may ask


def test_another_machine_is_served_only_with_a_token_or_an_explicit_flag() -> None:
    status, message = refusal("--host", EVERYWHERE, "--port", "0")
    assert status == 2
    assert "--token-file" in message
    assert "--allow-unauthenticated" in message
    with serving("--host", EVERYWHERE, "--port", "0", "--allow-unauthenticated") as served:
        assert served.get("/api/ping").status == 200


def test_a_name_that_a_page_led_here_is_refused_though_other_machines_are_served() -> None:
    options = ("--host", EVERYWHERE, "--port", "0", "--allow-unauthenticated")
    with serving(*options, "--allow-host", "box.example.com") as served:
        assert served.get("/api/ping", Host="rebound.evil.example:3000").status == 403
        for name in ("sandbox:3000", "192.0.2.7", "box.example.com"):
            assert served.get("/api/ping", Host=name).status == 200


def test_with_a_token_every_request_must_bear_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("0123456789abcdef\n")
    options = ("--host", EVERYWHERE, "--port", "0", "--token-file", str(file))
    with serving(*options) as served:
        assert served.get("/api/session/list").status == 401
        assert served.get("/api/session/list", Authorization="Bearer wrong").status == 401
        bearer = "Bearer 0123456789abcdef"
        assert served.get("/api/session/list", Authorization=bearer).status == 200
        assert "0123456789abcdef" not in served.log


def test_a_token_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("short")
    assert refusal("--token-file", str(file))[0] == 2
    assert "--token-file" in refusal("--token-file", str(file))[1]
    assert "No such file" in refusal("--token-file", str(tmp_path / "missing"))[1]
    assert "SANDBOX_TOKEN" in refusal(SANDBOX_TOKEN="short")[1]


def ask(served: Served, path: str, status: int = 200, **fields: object) -> Any:
    """The JSON that a request is answered with."""
    port = int(served.addresses[0].rpartition(":")[2].rstrip("/"))
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("POST", path, json.dumps(fields))
        with connection.getresponse() as response:
            assert response.status == status, response.read()
            return json.loads(response.read())


@pytest.mark.skipif(
    os.geteuid() != 0, reason="NOT TESTED: needs root, for ids of the sandbox's own"
)
def test_d37_the_code_inside_is_not_heard_where_it_shares_the_network() -> None:
    with serving("--network", "host", "--port", "0") as served:
        port = served.addresses[0].rpartition(":")[2].rstrip("/")
        request = "GET /api/ping HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n"
        command = f"(exec 3<>/dev/tcp/127.0.0.1/{port}; printf '{request}' >&3; cat <&3)"
        ask(served, "/api/session/create", id="in")
        result = ask(served, "/api/execute", id="in", command=command)
        assert "pong" not in result["stdout"], result
        served.wait_for("it comes from inside a sandbox")


HAS_IPV6_LOOPBACK = False
if socket.has_ipv6:
    with socket.socket(socket.AF_INET6) as probe, suppress(OSError):
        probe.bind(("::1", 0))
        HAS_IPV6_LOOPBACK = True
needs_ipv6 = pytest.mark.skipif(
    not HAS_IPV6_LOOPBACK, reason="NOT TESTED: this machine has no address ::1"
)

TAKE_THE_PORT = """
import socket, sys
for family, address in (
    (socket.AF_INET6, "::1"), (socket.AF_INET6, "::"),
    (socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"),
):
    with socket.socket(family) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            thief.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            thief.bind((address, int(sys.argv[1])))
            thief.listen()
        except OSError as error:
            print(address, error.errno)
        else:
            print(address, "taken")
"""


@needs_ipv6
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", EVERYWHERE, "::"])
def test_the_code_inside_cannot_take_the_port_on_another_address_of_this_machine(host: str) -> None:
    token = {"SANDBOX_TOKEN": "0123456789abcdef"}
    with serving("--network", "host", "--host", host, "--port", "0", env=token) as served:
        port = served.addresses[0].rpartition(":")[2].rstrip("/")
        program = f"python3 -c {shlex.quote(TAKE_THE_PORT)} {port}"
        target = "::1" if host in {"::1", "::"} else "127.0.0.1"
        with closing(http.client.HTTPConnection(target, int(port), timeout=30)) as connection:
            bearer = {"Authorization": f"Bearer {token['SANDBOX_TOKEN']}"}
            told: Any = None
            for path in ("session/create", "execute"):
                fields = json.dumps({"id": "in", "command": program})
                connection.request("POST", f"/api/{path}", fields, bearer)
                told = json.loads(connection.getresponse().read())
        lines = told["stdout"].splitlines()
        assert [line.split()[1] for line in lines] == [str(errno.EADDRINUSE)] * 4, told


@needs_ipv6
def test_who_says_localhost_is_served_by_either_family() -> None:
    with serving("--port", "0") as served:
        for address in ("127.0.0.1", "::1"):
            connection = http.client.HTTPConnection(address, served.port, timeout=30)
            with closing(connection):
                connection.request("GET", "/api/ping")
                assert connection.getresponse().status == 200


@needs_ipv6
def test_a_port_that_another_has_on_the_other_loopback_address_is_told() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        port = other.getsockname()[1]
        status, message = refusal("--port", str(port))
    assert status == 125
    assert f"cannot listen on ::1 port {port}: Address already in use" in message
    assert "localhost" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="NOT TESTED: root's sandboxes have ids of their own")
def test_d37_without_ids_of_their_own_sandboxes_share_the_network_only_behind_a_token() -> None:
    status, message = refusal("--network", "host", "--port", "0")
    assert status == 2
    assert "--token-file" in message


def network_of(served: Served) -> str:
    found = re.search(r"network=(\w+)", served.log)
    assert found is not None
    return found[1]


def test_auto_is_the_hosts_network_where_the_code_inside_can_be_told_apart() -> None:
    with serving("--network", "auto", "--port", "0") as served:
        assert network_of(served) == ("host" if os.geteuid() == 0 else "loopback")
        made = ask(served, "/sandboxes", status=201)
        assert made["sandbox"]["network"] == network_of(served)


def test_auto_is_the_hosts_network_behind_a_token_or_a_unix_socket(tmp_path: Path) -> None:
    token = {"SANDBOX_TOKEN": "0123456789abcdef"}
    with serving("--network", "auto", "--port", "0", env=token) as served:
        assert network_of(served) == "host"
    with serving("--network", "auto", "--unix", str(tmp_path / "socket")) as served:
        assert network_of(served) == "host"


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root's sandboxes have own ids")
def test_who_may_come_by_way_of_others_is_said_in_the_log() -> None:
    options = ("--network", "host", "--port", "0", "--host", EVERYWHERE, "--allow-unauthenticated")
    with serving(*options) as served:
        served.wait_for("by way of others")


def test_exposed_ports_have_names_below_the_preview_domain() -> None:
    with serving("--port", "0", "--preview-domain", "preview.test") as served:
        port = served.addresses[0].rpartition(":")[2].rstrip("/")
        url = ask(served, "/api/expose-port", port=8080)["url"]
        assert re.fullmatch(rf"http://8080-default-[a-z0-9]+\.preview\.test:{port}/", url)


# -- descriptors


def test_what_exists_goes_on_when_the_descriptors_run_out() -> None:
    with serving(
        "--port", "0", "--python-pool", "0", prefix=["prlimit", "--nofile=256:256"]
    ) as served:
        made = 0
        while True:
            body = json.dumps({"id": f"s{made}"})
            with closing(http.client.HTTPConnection("127.0.0.1", served.port)) as connection:
                connection.request("POST", "/api/session/create", body)
                with connection.getresponse() as response:
                    told = json.loads(response.read())
                    if response.status != 200:
                        assert (response.status, told["code"]) == (503, "BUSY")
                        assert response.headers["retry-after"] == "1"
                        break
            made += 1
        assert made > 4
        for path, field, value in (
            ("/api/process/start", "command", "true"),
            ("/api/contexts", "language", "python"),
            ("/sandboxes", "id", "one-more"),
        ):
            assert ask(served, path, status=503, **{field: value})["code"] == "BUSY"
        assert ask(served, "/api/execute", id="s0", command="echo here")["stdout"] == "here\n"
        for number in range(4):
            ask(served, "/api/session/delete", sessionId=f"s{number}")
        ask(served, "/api/session/create", id="again")


# -- values


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SANDBOX_PORT", "abc"),
        ("SANDBOX_PORT", "70000"),
        ("SANDBOX_GRACE_S", "-1"),
        ("SANDBOX_LOG_LEVEL", "loud"),
        ("SANDBOX_NETWORK", "mars"),
        ("SANDBOX_PREVIEW_DOMAIN", "a b"),
        ("SANDBOX_MEMORY", "many"),
        ("SANDBOX_MAX_BODY", "0"),
        ("SANDBOX_UNIX_MODE", "999"),
        ("SANDBOX_LISTENABLE", "localhost"),
        ("SANDBOX_ALLOW_UNAUTHENTICATED", "perhaps"),
        ("COMMAND_TIMEOUT_MS", "abc"),
        ("PYTHON_POOL_MIN_SIZE", "-3"),
        ("JAVASCRIPT_POOL_MAX_SIZE", "1e3"),
        ("CLEANUP_INTERVAL_MS", "soon"),
    ],
)
def test_d54_a_variable_that_means_nothing_is_refused_by_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["sandbox-runtime", "serve"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert name in message
    assert value in message


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--python-pool", "x", "'x' must be a whole number from 0 to 1000"),
        ("--grace", "abc", "'abc' must be a number of seconds from 0 to 3600"),
        ("--max-sandboxes", "0", "'0' must be a whole number, 1 or more"),
    ],
)
def test_what_is_no_number_is_told_with_the_range(option: str, value: str, words: str) -> None:
    status, message = refusal(option, value)
    assert (status, option in message, words in message) == (2, True, True), message


@pytest.mark.parametrize("port", ["abc", "65536", "-1", "1.5"])
def test_what_is_no_port_is_told_in_words(port: str) -> None:
    status, message = refusal("--port", port)
    assert (status, "must be a whole number from 0 to 65535" in message) == (2, True), message


def test_a_host_that_does_not_exist_is_refused() -> None:
    status, message = refusal("--host", "no.such.host.invalid", "--port", "0")
    assert status == 2
    assert "--host: 'no.such.host.invalid'" in message


# -- beside the server


def test_a_program_beside_the_server_speaks_through_and_ends_with_it() -> None:
    program = """
import signal
def told(*_): print("told"); raise SystemExit(3)
signal.signal(signal.SIGTERM, told)
print("here", flush=True)
signal.pause()
"""
    with serving("--port", "0", "--", sys.executable, "-c", program) as served:
        assert served.process.stdout is not None
        assert served.process.stdout.readline() == "here\n"
        assert served.end() < 2
        assert served.process.stdout.readline() == "told\n"
        assert "exit_code=3" in served.wait_for("program ended")
        assert served.process.returncode == 0


def test_the_end_of_the_program_is_logged_and_not_ours() -> None:
    with serving("--port", "0", "--", "sh", "-c", "exit 7") as served:
        assert "exit_code=7" in served.wait_for("program ended")
        assert served.get("/api/ping").status == 200


def test_a_program_that_is_not_there_is_logged() -> None:
    with serving("--port", "0", "--", "no-such-program") as served:
        assert "No such file" in served.wait_for("cannot start no-such-program")
        assert served.get("/api/ping").status == 200


def test_as_pid_1_it_reaps_orphans_and_still_knows_how_its_own_child_ended() -> None:
    spaces = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if os.getuid() == 0:
        spaces = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*spaces, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip(f"no PID namespace can be made here: {' '.join(spaces)}")
    program = """
        pid=$(bash -c 'sleep 0.1 >/dev/null & echo $!')
        read -r _ _ _ parent _ < /proc/$pid/stat
        [ $parent = 1 ] && echo adopted
        while kill -0 $pid 2>/dev/null; do read -t 0.01 <> <(:); done
        echo reaped
        exit 5
    """
    with serving(
        "--port", "0", "--", "bash", "-c", program, prefix=[*spaces, "--kill-child"]
    ) as served:
        assert " pid=1 " in served.log
        assert served.process.stdout is not None
        assert served.process.stdout.readline() == "adopted\n"
        assert served.process.stdout.readline() == "reaped\n"
        assert "exit_code=5" in served.wait_for("program ended")


@pytest.mark.skipif(os.getuid() != 0, reason="it takes root to mask /proc as a container does")
def test_who_may_mount_serves_also_where_a_container_masks_proc() -> None:
    masked = ["unshare", "--mount", "sh", "-c", 'mount -B /dev/null /proc/keys; exec "$@"', "sh"]
    with serving("--port", "0", prefix=masked) as served:
        assert served.get("/api/ping").status == 200
