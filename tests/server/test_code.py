"""Contexts and code over the wire."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from server.conftest import Client

LINES = {"Accept": "text/event-stream"}


def context(api: Client, **fields: Any) -> str:
    reply = api.post("/api/contexts", fields)
    assert reply.status == 200, reply
    identity: str = reply.json["id"]
    return identity


def run(api: Client, context_id: str, code: str, **fields: Any) -> list[Any]:
    body = {"context_id": context_id, "code": code, **fields}
    return api.all_events("/api/execute/code", body, **LINES)


@pytest.fixture(scope="module")
def python(server: Any) -> str:
    """One context for the tests that leave it as it was."""
    return context(server.client)


def test_a_context_carries_the_names_of_both_generations(api: Client) -> None:
    made = api.post("/api/contexts", {"language": "python", "env_vars": {"A": "1"}}).json
    assert made["success"] is True
    assert made["id"] == made["contextId"]
    assert (made["language"], made["cwd"]) == ("python", "/workspace")
    listed = api.get("/api/contexts").json
    assert listed["success"] is True
    assert made["id"] in [one["id"] for one in listed["contexts"]]
    assert run(api, made["id"], "import os; os.environ['A']")[0]["text"] == "'1'"
    assert api.delete(f"/api/contexts/{made['id']}").json["success"] is True
    gone = api.delete(f"/api/contexts/{made['id']}")
    assert (gone.status, gone.json["error"]) == (404, f"Context {made['id']} not found")


def test_a_result_has_all_its_formats_in_one_event(api: Client, python: str) -> None:
    code = "class A:\n def _repr_html_(self): return '<b>'\n def __repr__(self): return 'a'\nA()"
    result, complete = run(api, python, code)
    assert (result["type"], result["html"], result["text"]) == ("result", "<b>", "a")
    assert complete["type"] == "execution_complete"
    assert complete["execution_count"] >= 1


def test_an_error_of_the_code_is_the_last_event(api: Client, python: str) -> None:
    *_, error = run(api, python, "1/0")
    assert (error["type"], error["ename"]) == ("error", "ZeroDivisionError")
    assert error["evalue"] == "division by zero"
    assert any("1/0" in line for line in error["traceback"])


def test_a_run_that_takes_too_long_says_so_and_the_state_survives(api: Client, python: str) -> None:
    run(api, python, "kept = 5")
    *_, error = run(api, python, "while True: pass", timeout_ms=200)
    assert (error["ename"], error["evalue"]) == ("InternalError", "Execution timeout")
    assert run(api, python, "kept")[0]["text"] == "5"


def test_code_that_shows_waits_for_a_client_that_does_not_read(api: Client) -> None:
    """The server holds little of it, and the deadline ends the run all the same."""
    made = context(api)
    code = "from IPython.display import HTML\nx, n = HTML('x' * 200_000), 0\n"
    code += "while True:\n display(x)\n n += 1"
    body = {"context_id": made, "code": code, "timeout_ms": 2000}
    with api.events("POST", "/api/execute/code", body):
        shown, _ = run(api, made, "n")
    assert 0 < int(shown["text"]) < 150


def test_new_clients_read_events_and_old_ones_lines(api: Client, python: str) -> None:
    body = {"context_id": python, "code": "print('é')"}
    with api.request("POST", "/api/execute/code", body, LINES) as response:
        assert response.readline().startswith(b'{"type": "stdout", "text": "\\u00e9')
    with api.request("POST", "/api/execute/code", body) as response:
        assert response.readline().startswith(b'data: {"type": "stdout", "text": "\\u00e9')


def test_a_run_in_no_context_is_not_found(api: Client) -> None:
    reply = api.post("/api/execute/code", {"code": "1"})
    assert (reply.status, reply.json["error"]) == (404, "Context undefined not found")
    assert "context_id is missing" in reply.json["suggestion"]
    reply = api.post("/api/execute/code", {"code": "1", "context_id": "x/../y"})
    assert (reply.status, reply.json["error"]) == (404, "Context x/../y not found")
    assert reply.headers["access-control-allow-origin"] == "*"


def test_d34_dictionaries_and_lists_are_data_where_json_has_them(api: Client, python: str) -> None:
    assert run(api, python, "{'a': [1, 2]}")[0]["json"] == {"a": [1, 2]}
    assert run(api, python, "[1, None, 'x']")[0]["json"] == [1, None, "x"]
    for code in ("{'s': {1, 2}}", "{(1, 2): 3}", "[float('nan')]", "x = []; x.append(x); x"):
        result, complete = run(api, python, code)
        assert "json" not in result
        assert result["text"]
        assert complete["type"] == "execution_complete"


def test_d34_the_value_of_an_expression_is_no_output(api: Client, python: str) -> None:
    assert [event["type"] for event in run(api, python, "40 + 2")] == [
        "result",
        "execution_complete",
    ]


def test_d12_code_that_reads_or_writes_the_descriptors_forges_nothing(
    api: Client, python: str
) -> None:
    *_, error = run(api, python, "input()")
    assert error["type"] == "error"
    forged = "import os, sys; os.write(1, b'x'); sys.__stdout__.write('{}'); 1"
    events = run(api, python, forged)
    assert "".join(event["text"] for event in events if event["type"] == "stdout") == "x{}"
    assert events[-1]["type"] == "execution_complete"


def test_d13_a_syntax_error_is_an_error(api: Client, python: str) -> None:
    assert run(api, python, "def f(:")[-1]["ename"] == "SyntaxError"


def test_d07_a_run_never_gets_the_output_of_an_earlier_one(api: Client, python: str) -> None:
    code = "import time\ntry:\n while True: time.sleep(1)\nfinally: print('OLD')"
    run(api, python, code, timeout_ms=200)
    events = run(api, python, "print('NEW')")
    assert "".join(event["text"] for event in events if event["type"] == "stdout") == "NEW\n"


def test_d09_d29_contexts_are_never_shared_and_never_too_many(api: Client) -> None:
    made = [context(api) for _ in range(3)]
    run(api, made[0], "SECRET = 1")
    assert run(api, made[1], "SECRET")[-1]["ename"] == "NameError"
    for one in made:
        api.delete(f"/api/contexts/{one}")


def test_d10_runs_of_one_context_are_one_after_another(api: Client, python: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, api, python, "import time; v = 1; time.sleep(0.2); v += 1")
        second = pool.submit(run, api, python, "globals().get('v', 'first')")
        first.result()
        second.result()
    assert run(api, python, "v")[0]["text"] == "2"


def test_d35_output_comes_while_the_code_runs(api: Client, python: str) -> None:
    code = "import os\nos.mkfifo('/tmp/go')\nprint('one')\nopen('/tmp/go').read()\nprint('two')"
    api.session("goes")
    body = {"context_id": python, "code": code}
    with api.events("POST", "/api/execute/code", body) as events:
        assert next(events)["text"] == "one\n"
        api.run("goes", "echo > /tmp/go")
        assert "two" in "".join(event.get("text", "") for event in events)


def test_d35_unknown_languages_are_refused(api: Client) -> None:
    reply = api.post("/api/contexts", {"language": "cobol"})
    assert reply.status == 400
    assert "'cobol' is not known" in reply.json["error"]


def test_a_context_branches_with_its_state(api: Client) -> None:
    one = context(api)
    run(api, one, "x = 7")
    forked = api.post(f"/api/contexts/{one}/fork", {"count": 2}).json["contexts"]
    for branch in forked:
        assert run(api, branch["id"], "x += 1; x")[0]["text"] == "8"
    assert run(api, one, "x")[0]["text"] == "7"


def test_a_context_is_shown(api: Client) -> None:
    """With its ready branches, once they are there if that is asked for; only if it has any."""
    made = api.post("/api/contexts", {"readyBranches": 1, "cwd": "/tmp"}).json["id"]
    run(api, made, "x = 1")
    shown = api.get(f"/api/contexts/{made}?wait=branches").json["context"]
    assert (shown["id"], shown["cwd"], shown["readyBranches"]) == (made, "/tmp", 1)
    assert "readyBranches" not in api.get(f"/api/contexts/{context(api)}").json["context"]
    assert api.get("/api/contexts/nothing").status == 404
    refused = api.get(f"/api/contexts/{made}?wait=rain")
    assert (refused.status, "known: branches" in refused.json["message"]) == (400, True)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("1 / 0", {"ended": "error"}),
        ("while True: pass", {"ended": "deadline", "state_survived": True}),
        ("import os; os._exit(3)", {"ended": "context lost", "state_survived": False}),
    ],
)
def test_the_last_event_says_why_a_run_is_over(
    api: Client, code: str, told: dict[str, Any]
) -> None:
    body = {"context_id": context(api), "code": code, "timeout_ms": 500}
    last = api.all_events("/api/execute/code", body)[-1]
    assert told.items() <= {**last, "state_survived": last["stateSurvived"]}.items()
    if told["ended"] == "context lost":
        assert last["death"] == {"cause": "exit", "exitCode": 3, "signal": None}
    else:
        assert "death" not in last


def test_a_fork_without_a_body_makes_one_branch(api: Client) -> None:
    """As one without fields does; the wire's own requests still need their bodies."""
    one = context(api)
    bodies: list[Any] = [None, {}]
    for body in bodies:
        assert len(api.post(f"/api/contexts/{one}/fork", body).json["contexts"]) == 1
    assert api.post("/api/contexts").status == 400


def test_branches_count_as_contexts(api: Client) -> None:
    """All that are asked for must have room; else none is made."""
    one = context(api)
    there = api.get("/api/interpreter/health").json["contexts"]
    reply = api.post(f"/api/contexts/{one}/fork", {"count": 64})  # as many as there may be in all
    assert reply.status == 429
    assert "and may have 64 in all: there is no room for 64 more" in reply.json["message"]
    assert reply.json["context"]["asked"] == 64
    assert api.get("/api/interpreter/health").json["contexts"] == there
    assert len(api.post(f"/api/contexts/{one}/fork", {"count": 1}).json["contexts"]) == 1


def test_branches_that_are_made_ahead_count_as_contexts(api: Client) -> None:
    """As many as are wanted, whether they are there or not; the context says how many are."""
    there = api.get("/api/interpreter/health").json["contexts"]
    reply = api.post("/api/contexts", {"language": "javascript", "readyBranches": 1})
    (wrong,) = reply.json["context"]["validationErrors"]
    assert (reply.status, wrong["field"]) == (400, "readyBranches")
    assert wrong["message"].startswith("readyBranches: javascript")
    reply = api.post("/api/contexts", {"readyBranches": 64})
    assert reply.status == 400
    assert "64 and the context itself are more than the 64" in reply.json["message"]
    assert api.post("/api/contexts", {"readyBranches": 65}).status == 400
    assert api.get("/api/interpreter/health").json["contexts"] == there
    made = api.post("/api/contexts", {"readyBranches": 1}).json["id"]
    run(api, made, "x = 7")
    ready = None
    while ready != 1:
        listed = api.get("/api/contexts").json["contexts"]
        ready = next(one["readyBranches"] for one in listed if one["id"] == made)
    (branch,) = api.post(f"/api/contexts/{made}/fork", {}).json["contexts"]
    assert "readyBranches" not in branch
    assert run(api, branch["id"], "x + 1")[0]["text"] == "8"


def test_a_line_is_one_event_and_text_without_its_end_comes_all_the_same(
    api: Client, python: str
) -> None:
    api.session("lines")
    api.run("lines", "mkfifo /tmp/lines")
    code = "print('a', 'b')\nprint('.', end='')\nopen('/tmp/lines').read()\nprint('c')"
    body = {"context_id": python, "code": code}
    with api.events("POST", "/api/execute/code", body) as events:
        text = next(events)["text"]
        assert text.startswith("a b\n")
        assert text.endswith(".") or next(events)["text"] == "."  # while the code waits
        api.run("lines", "echo > /tmp/lines")
        texts = [event["text"] for event in events if event["type"] == "stdout"]
    assert texts == ["c\n"]
