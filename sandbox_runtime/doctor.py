"""The doctor: finds out by doing what a sandbox on this machine is worth.

It makes one with the same steps as everybody else, starts a program and a Python context in it,
and tells how to get what is missing. Nothing is concluded from versions or settings.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time

import msgspec
import trio

from sandbox_runtime.errors import IsolationError, SandboxError
from sandbox_runtime.interpreters.registry import Contexts
from sandbox_runtime.processes import Process
from sandbox_runtime.report import SandboxReport, build_report, enforce
from sandbox_runtime.runtime import Runtime, open_runtime
from sandbox_runtime.settings import Limits

_LEVELS = {
    1: "as root: the sandbox's ids on the host belong to nothing else",
    2: "as an ordinary user: on the host, the sandbox's ids are that user's own",
}


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is required and cannot be had.

    Attributes:
        step: The step or the protection.
        message: What went wrong, and how to get it.
    """

    step: str
    message: str


class Diagnosis(msgspec.Struct, kw_only=True):
    """What was found.

    Attributes:
        version: Ours.
        kernel: Of this machine.
        uid: Of this process.
        python: The interpreter of Python contexts, and its version.
        report: The protections, or None if there is no sandbox.
        sandbox_s: How long the sandbox took to make.
        python_s: How long the first context took, with the warming of its interpreter.
        python_missing: Libraries that the interpreter would have loaded beforehand.
        python_problem: Why there are no Python contexts; empty if there are.
        failure: What is required and missing.
    """

    version: str
    kernel: str
    uid: int
    python: str
    report: SandboxReport | None = None
    sandbox_s: float | None = None
    python_s: float | None = None
    python_missing: tuple[str, ...] = ()
    python_problem: str = ""
    failure: Failure | None = None

    @property
    def ok(self) -> bool:
        """Whether there are sandboxes here."""
        return self.failure is None

    def json(self) -> str:
        """For programs."""
        record = msgspec.to_builtins(self)
        record["ok"] = self.ok
        if self.report is not None:
            record["report"]["protections"] = [
                msgspec.to_builtins(row)
                | {"requested": row.requested, "meaning": row.meaning, "remedy": row.remedy}
                for row in self.report.protections
            ]
        return msgspec.json.format(msgspec.json.encode(record)).decode()

    def text(self) -> str:
        """For people."""
        lines = [
            f"sandbox-runtime {self.version}",
            f"  kernel     {self.kernel}",
            f"  user       uid {self.uid}",
            f"  python     {self.python}",
        ]
        if self.sandbox_s is not None:
            lines.append(f"  sandbox    made in {self.sandbox_s * 1000:.0f} ms, `true` ran in it")
        if self.python_s is not None:
            missing = ", ".join(self.python_missing)
            lines.append(
                f"  contexts   the first took {self.python_s:.1f} s, with warming"
                + (f"; not installed here: {missing} (pip install {missing})" if missing else "")
            )
        if self.python_problem:
            lines.append(f"  contexts   none: {self.python_problem}")
        if self.report is not None:
            level = self.report.level
            lines += [f"  level      {level}, {_LEVELS[level]}", "", self.report.table()]
            if missing_rows := self.report.missing:
                lines += ["", "To get what is missing:"]
                lines += [
                    f"  {row.name} ({row.achieved}; {row.meaning})\n      {row.remedy}"
                    for row in missing_rows
                ]
        if self.failure is None:
            lines += ["", "Sandboxes work here: everything that is required is there."]
        else:
            lines += [
                "",
                f"No sandbox here. It fails at: {self.failure.step}",
                f"  {self.failure.message}",
            ]
        return "\n".join(lines)


async def examine() -> Diagnosis:
    """Makes a sandbox and everything in it once."""
    system = os.uname()
    diagnosis = Diagnosis(
        version=importlib.metadata.version("sandbox-runtime"),
        kernel=f"{system.sysname} {system.release} {system.machine}",
        uid=os.getuid(),
        python=f"{platform.python_version()}, {sys.executable}",
    )
    try:
        started_s = time.monotonic()
        async with open_runtime() as runtime:
            await _examine_sandbox(runtime, diagnosis, started_s)
    except IsolationError as error:
        diagnosis.failure = Failure(step=error.step, message=str(error))
    except SandboxError as error:
        diagnosis.failure = Failure(step=error.code, message=str(error))
    return diagnosis


async def _examine_sandbox(runtime: Runtime, diagnosis: Diagnosis, started_s: float) -> None:
    keeper = await runtime.supervisor.create_sandbox("doctor", Limits())
    try:
        separate = runtime.supervisor.separate_ids
        diagnosis.report = build_report(
            keeper.protections, separate_ids=separate, not_asked=("cgroup_cpu",)
        )
        enforce(diagnosis.report, ())
        process = await Process.open(keeper, ["true"])
        await process.run()
        if process.result is None or not process.result.ok:
            raise IsolationError("start", 0, "`true` did not run in it", remedy="")
        diagnosis.sandbox_s = time.monotonic() - started_s
        started_s = time.monotonic()
        try:
            zygote = await runtime.python_zygote()
            async with trio.open_nursery() as nursery:
                contexts = Contexts(keeper, runtime.languages, {}, nursery, runtime.alarms)
                try:
                    execution = await (await contexts.create()).run("1 + 1")
                finally:
                    await contexts.aclose()
        except SandboxError as error:
            diagnosis.python_problem = str(error)
            return
        if execution.text != "2":
            diagnosis.python_problem = f"a first cell ended with {execution.ended}"
            return
        diagnosis.python_s = time.monotonic() - started_s
        diagnosis.python_missing = zygote.missing
    finally:
        with trio.CancelScope(shield=True):
            await keeper.aclose()
