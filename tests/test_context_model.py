"""Contexts against a model of them: after any runs, interrupts, branches, restarts and ends, each
context holds what the model holds, and those that are gone answer that they are.

All of it by way of the client, so that the wire and the server are part of what is tried.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sandbox_runtime.client import NotFoundError, Sandbox
from sandbox_runtime.wire.code import ContextList

if TYPE_CHECKING:
    from sandbox_runtime.client._sync.contexts import Context

NAMES = ("a", "b", "c")
MOST_CONTEXTS = 4

names = st.sampled_from(NAMES)
values = st.integers(0, 99)
which = st.integers(0, MOST_CONTEXTS - 1)

State = dict[str, list[int]]
"""Each name is a list, so that a copy that shares anything with its origin is found out."""


def void(_: object) -> None:
    """Callbacks give nothing back."""


class Contexts(RuleBasedStateMachine):
    """What clients can do with contexts, in any order."""

    address: ClassVar[str]
    language: ClassVar[str]
    show: ClassVar[str]
    assign: ClassVar[str]
    extend: ClassVar[str]
    fail: ClassVar[str]
    spin: ClassVar[str]
    die: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.sandbox = Sandbox(self.address)
        self.sandbox.__enter__()
        self.living: list[tuple[Context, State]] = []
        self.gone: list[Context] = []
        self.ahead: dict[str, int] = {}

    def teardown(self) -> None:
        self.sandbox.__exit__(None, None, None)

    def pick(self, number: int) -> tuple[Context, State]:
        return self.living[number % len(self.living)]

    def forget(self, context: Context) -> None:
        self.living = [one for one in self.living if one[0] is not context]
        self.gone.append(context)

    @initialize()
    def begin(self) -> None:
        self.make()

    @precondition(lambda self: len(self.living) < MOST_CONTEXTS)
    @rule()
    def make(self) -> None:
        self.living.append((self.sandbox.create_code_context(self.language), {}))

    @rule(number=which, name=names, value=values)
    def set_anew(self, number: int, name: str, value: int) -> None:
        context, state = self.pick(number)
        assert context.run(self.assign.format(name=name, value=value)).error is None
        state[name] = [value]

    @rule(number=which, name=names, value=values)
    def change_in_place(self, number: int, name: str, value: int) -> None:
        context, state = self.pick(number)
        failed = context.run(self.extend.format(name=name, value=value)).error is not None
        assert failed == (name not in state)
        state.get(name, []).append(value)

    @rule(number=which, name=names, value=values)
    def fail_halfway(self, number: int, name: str, value: int) -> None:
        context, state = self.pick(number)
        execution = context.run(self.assign.format(name=name, value=value) + self.fail)
        assert execution.error is not None
        assert execution.state_survived
        state[name] = [value]

    @rule(number=which, name=names, value=values)
    def interrupt(self, number: int, name: str, value: int) -> None:
        context, state = self.pick(number)
        code = self.assign.format(name=name, value=value) + self.spin
        execution = context.run(code, on_stdout=lambda _: void(context.interrupt()))
        assert execution.error is not None
        assert execution.state_survived
        state[name] = [value]

    @rule(number=which)
    def strike_the_deadline(self, number: int) -> None:
        context, _ = self.pick(number)
        execution = context.run(self.spin, deadline_s=0.05)
        assert execution.error is not None
        assert execution.state_survived

    @rule(number=which)
    def restart(self, number: int) -> None:
        context, state = self.pick(number)
        context.restart()
        state.clear()

    @rule(number=which)
    def die_of_itself(self, number: int) -> None:
        context, state = self.pick(number)
        assert not context.run(self.die).state_survived
        state.clear()  # the next run finds a fresh one

    @precondition(lambda self: len(self.living) > 1)
    @rule(number=which)
    def end(self, number: int) -> None:
        context, _ = self.pick(number)
        context.close()
        self.forget(context)

    @invariant()
    def each_holds_what_the_model_holds(self) -> None:
        for context, state in self.living:
            told = context.run(self.show).stdout
            assert told == "".join(f"{name} {state.get(name)}\n" for name in NAMES)
        for context in self.gone:
            with pytest.raises(NotFoundError):
                context.run(self.show)


class PythonContexts(Contexts):
    """In Python they branch besides, also from branches that were made ahead."""

    language = "python"
    show = f"for name in {NAMES}: print(name, globals().get(name))"
    assign = "{name} = [{value}]\n"
    extend = "{name}.append({value})\n"
    fail = "1 / 0"
    spin = "print('begun')\nwhile True: pass"
    die = "import os; os._exit(1)"

    @precondition(lambda self: len(self.living) < MOST_CONTEXTS)
    @rule(ready=st.integers(1, 2))
    def make_one_with_branches_ahead(self, ready: int) -> None:
        context = self.sandbox.create_code_context(self.language, ready_branches=ready)
        self.ahead[context.id] = ready
        self.living.append((context, {}))

    @precondition(lambda self: len(self.living) < MOST_CONTEXTS)
    @rule(number=which, count=st.integers(1, 3), rested=st.booleans())
    def branch(self, number: int, count: int, rested: bool) -> None:
        context, state = self.pick(number)
        if rested:
            self.wait_ready(context)
        for branch in context.fork(count):
            self.living.append((branch, {name: list(held) for name, held in state.items()}))

    def wait_ready(self, context: Context) -> None:
        """Until all that are made ahead wait; the invariant has run code in it before."""
        path = f"{self.sandbox._prefix}/api/contexts"
        while (wanted := self.ahead.get(context.id)) is not None:
            told = self.sandbox._transport.call("GET", path, ContextList)
            (info,) = (one for one in told.contexts if one.id == context.id)
            if info.ready_branches == wanted:
                return


class JavaScriptContexts(Contexts):
    """The same without branches."""

    language = "javascript"
    show = (
        f"for (const name of {list(NAMES)}) console.log(name, name in globalThis "
        "? `[${globalThis[name].join(', ')}]` : 'None')"
    )
    assign = "globalThis.{name} = [{value}];\n"
    extend = "{name}.push({value});\n"
    fail = "null.x"
    spin = "console.log('begun'); while (true) {}"
    die = "process.exit(1)"


@pytest.mark.timeout(180)
def test_python_contexts_hold_what_the_model_holds(address: str) -> None:
    """Runs, errors, interrupts, deadlines, branches, restarts, crashes and ends in any order."""
    PythonContexts.address = address
    run_state_machine_as_test(
        PythonContexts, settings=settings(max_examples=8, stateful_step_count=10)
    )


@pytest.mark.timeout(180)
@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_javascript_contexts_hold_what_the_model_holds(address: str) -> None:
    """The same in any order, without branches."""
    JavaScriptContexts.address = address
    run_state_machine_as_test(
        JavaScriptContexts, settings=settings(max_examples=3, stateful_step_count=8)
    )
