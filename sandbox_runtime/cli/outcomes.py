"""How a run ended: our exit status, and what `--json` prints."""

from __future__ import annotations

import base64
import contextlib
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from sandbox_runtime.cli.failures import DEADLINE, OWN_FAILURE, SIGNAL

if TYPE_CHECKING:
    from sandbox_runtime.interpreters.execution import Death, Execution
    from sandbox_runtime.receipts import CommandResult
    from sandbox_runtime.report import SandboxReport


@dataclass(slots=True)
class Outcome:
    """Our exit status, what `--json` prints, and what there is to say besides."""

    status: int
    record: dict[str, Any]
    note: str = ""


def outcome_of_command(result: CommandResult) -> Outcome:
    """The outcome of a process."""
    record = _record(result.stdout, result.stderr, result)
    record |= {"exit_code": result.exit_code, "signal": result.signal}
    match result.ended:
        case "exit":
            assert result.exit_code is not None
            return Outcome(result.exit_code, record)
        case "signal":
            assert result.signal is not None
            note = ""
            with contextlib.suppress(ValueError):  # the real-time signals have no names
                why = " for want of memory" if result.out_of_memory else ""
                note = f"the program was ended by {signal.Signals(result.signal).name}{why}"
            return Outcome(SIGNAL + result.signal, record, note)
        case "deadline":
            return Outcome(DEADLINE, record, "the deadline ended the program (--timeout)")
        case other:
            return Outcome(OWN_FAILURE, record, f"the program did not end by itself: {other}")


def outcome_of_execution(execution: Execution, rest: Execution | None) -> Outcome:
    """The outcome of a script in a context; `rest` is what went on when its last line was done."""
    stdout = execution.stdout + (rest.stdout if rest else b"")
    stderr = execution.stderr + (rest.stderr if rest else b"")
    record = _record(stdout, stderr, execution)
    if rest is not None:
        record["stdout_bytes"] += rest.stdout_bytes
        record["stderr_bytes"] += rest.stderr_bytes
        record["truncated"] = record["truncated"] or rest.truncated
    status, note, code = OWN_FAILURE, "", None
    ended = execution.ended
    if rest is not None and rest.ended not in {"ok", "error"}:
        ended = rest.ended
    match ended:
        case "ok":
            status = code = 0
        case "error":
            number = None
            if execution.error is not None and execution.error.name == "SystemExit":
                number = exit_number(execution.error.value)
            status = code = 1 if number is None else number
        case "deadline":
            status, note = DEADLINE, "the deadline ended the script (--timeout)"
        case "context lost":
            death = execution.death if rest is None or rest.death is None else rest.death
            status, note = _of_death(death)
            if death is not None:
                code, record["signal"] = death.exit_code, death.signal
        case other:
            note = f"the script did not end by itself: {other}"
    record |= {"ended": ended, "exit_code": code}
    record |= {
        "results": msgspec.to_builtins(execution.results),
        "error": msgspec.to_builtins(execution.error),
    }
    return Outcome(status, record, note)


def _of_death(death: Death | None) -> tuple[int, str]:
    """Our status and what to say when an interpreter is gone before its script was over."""
    if death is None:
        return OWN_FAILURE, "the interpreter is gone before the script was over; --plain sees why"
    if death.cause == "exit" and death.exit_code is not None:
        return death.exit_code, ""
    if death.cause == "broken protocol":
        return OWN_FAILURE, "the interpreter was ended because it broke its protocol"
    number = signal.SIGKILL if death.signal is None else death.signal
    name = f"signal {number}"
    with contextlib.suppress(ValueError):  # the real-time signals have no names
        name = signal.Signals(number).name
    why = " for want of memory" if death.cause == "out of memory" else ""
    return SIGNAL + number, f"the interpreter was ended by {name}{why}"


def _record(stdout: bytes, stderr: bytes, result: CommandResult | Execution) -> dict[str, Any]:
    record: dict[str, Any] = {"ended": result.ended, "exit_code": None, "signal": None}
    for name, content in (("stdout", stdout), ("stderr", stderr)):
        record[name] = content.decode(errors="replace")
        try:
            content.decode()
            record[f"{name}_base64"] = None
        except UnicodeDecodeError:
            record[f"{name}_base64"] = base64.b64encode(content).decode()
    return record | {
        "stdout_bytes": result.stdout_bytes,
        "stderr_bytes": result.stderr_bytes,
        "truncated": result.truncated,
        "receipt": msgspec.to_builtins(result.receipt),
    }


def report_record(report: SandboxReport) -> dict[str, Any]:
    """The report as `--json` prints it, which leaves the advice to the doctor."""
    return {
        "level": report.level,
        "protections": [
            {
                "name": row.name,
                "requested": row.requested,
                "achieved": row.achieved,
                "detail": row.detail,
            }
            for row in report.protections
        ],
    }


def exit_number(value: str) -> int | None:
    """The status that sys.exit was given, None if that was a text."""
    try:
        return int(value) & 0xFF
    except ValueError:
        return None
