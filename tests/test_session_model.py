"""A session against a model of it: after any commands, it holds what the model holds."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_runtime import open_sandbox
from sandbox_runtime.core import quote_word

if TYPE_CHECKING:
    from sandbox_runtime import Session

NAMES = ("a", "b_2", "PATH_", "c")
DIRECTORIES = ("/workspace", "/tmp", "/", "/workspace/below", "/workspace/it's $HOME\n")
UNSET = "<unset>"

names = st.sampled_from(NAMES)
values = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


@dataclass
class Model:
    """What a shell holds that commands can change."""

    values: dict[str, str] = field(default_factory=dict)
    exported: set[str] = field(default_factory=set)
    functions: dict[str, str] = field(default_factory=dict)
    directory: str = "/workspace"
    umask: int = 0o022

    def seen(self) -> list[str]:
        """What the shell shows."""
        return [
            *(self.values.get(name, UNSET) for name in NAMES),
            *(self.values[n] if n in self.values and n in self.exported else UNSET for n in NAMES),
            *(self.functions.get(name, UNSET) for name in NAMES),
            self.directory,
            f"{self.umask:04o}",
        ]


@dataclass(frozen=True)
class Assign:
    """Gives a variable a value, by the shell's own quoting or ours."""

    name: str
    value: str
    export: bool
    ours: bool

    async def apply(self, session: Session, model: Model) -> None:
        quoted = quote_word(self.value.encode()).decode() if self.ours else shlex.quote(self.value)
        await session.exec(f"{'export ' if self.export else ''}{self.name}={quoted}", check=True)
        model.values[self.name] = self.value
        if self.export:
            model.exported.add(self.name)


@dataclass(frozen=True)
class Unset:
    """Forgets a variable and its export."""

    name: str

    async def apply(self, session: Session, model: Model) -> None:
        await session.exec(f"unset -v {self.name}", check=True)
        model.values.pop(self.name, None)
        model.exported.discard(self.name)


@dataclass(frozen=True)
class Define:
    """Defines a function that says a value."""

    name: str
    value: str

    async def apply(self, session: Session, model: Model) -> None:
        text = f"{self.name}() {{ printf '%s' {shlex.quote(self.value)}; }}"
        await session.exec(text, check=True)
        model.functions[self.name] = self.value


@dataclass(frozen=True)
class ChangeDirectory:
    """Goes somewhere."""

    directory: str

    async def apply(self, session: Session, model: Model) -> None:
        await session.exec(f"cd {shlex.quote(self.directory)}", check=True)
        model.directory = self.directory


@dataclass(frozen=True)
class Umask:
    """Sets the mask."""

    mask: int

    async def apply(self, session: Session, model: Model) -> None:
        await session.exec(f"umask {self.mask:o}", check=True)
        model.umask = self.mask


@dataclass(frozen=True)
class Overlay:
    """Runs a command with a directory and variables of its own, which leave no trace."""

    env: dict[str, str]
    directory: str | None
    as_list: bool

    async def apply(self, session: Session, model: Model) -> None:
        script = 'printf "%s\\0" ' + " ".join(f'"${{{name}-{UNSET}}}"' for name in NAMES)
        script += '; printf "%s\\0" "$PWD"; cd /'
        command = ["bash", "-c", script] if self.as_list else script
        result = await session.exec(command, env=self.env, cwd=self.directory, check=True)
        visible = {
            name: value
            for name, value in model.values.items()
            if not self.as_list or name in model.exported
        } | self.env
        expected = [*(visible.get(name, UNSET) for name in NAMES), self.directory]
        if self.directory is None:
            expected[-1] = model.directory
            if not self.as_list:
                model.directory = "/"
        assert result.stdout.decode().split("\0")[:-1] == expected


@dataclass(frozen=True)
class Fail:
    """A command that goes wrong changes nothing."""

    text: str

    async def apply(self, session: Session, model: Model) -> None:
        result = await session.exec(self.text, deadline_s=0.02)
        assert not result.ok
        assert result.ended in {"exit", "deadline"}, model


@dataclass(frozen=True)
class Die:
    """The shell ends; the next one is fresh."""

    text: str

    async def apply(self, session: Session, model: Model) -> None:
        result = await session.exec(self.text)
        assert result.ended == "session lost"
        vars(model).update(vars(Model()))


operations = st.one_of(
    st.builds(Assign, names, values, st.booleans(), st.booleans()),
    st.builds(Unset, names),
    st.builds(Define, names, values),
    st.builds(ChangeDirectory, st.sampled_from(DIRECTORIES)),
    st.builds(Umask, st.integers(0, 0o777)),
    st.builds(
        Overlay,
        st.dictionaries(names, values, max_size=3),
        st.none() | st.sampled_from(DIRECTORIES),
        st.booleans(),
    ),
    st.builds(
        Fail, st.sampled_from(["(exit 3)", "nosuch", "sleep 100", "while :; do :; done", "if"])
    ),
    st.builds(Die, st.sampled_from(["exit 3", "kill -9 $$", "set -e; false", "exec true"])),
)

SHOW = "; ".join(
    [
        *(f'printf "%s\\0" "${{{name}-{UNSET}}}"' for name in NAMES),
        "bash -c '" + "; ".join(f'printf "%s\\0" "${{{n}-{UNSET}}}"' for n in NAMES) + "'",
        *(f'declare -F {n} >&2 && {n} || printf "{UNSET}"; printf "\\0"' for n in NAMES),
        'printf "%s\\0" "$PWD"',
        'printf "%s\\0" "$(umask)"',
    ]
)


@settings(max_examples=60)
@given(st.lists(operations, min_size=1, max_size=12))
def test_a_session_holds_what_the_model_holds(ops: list[Assign]) -> None:
    """Variables, exports, functions, directory and mask, after each of any commands."""

    async def compare() -> None:
        async with open_sandbox() as sandbox:
            for directory in DIRECTORIES:
                await sandbox.files.make_directory(directory)
            session = await sandbox.create_session()
            model = Model()
            for operation in ops:
                await operation.apply(session, model)
                shown = await session.exec(SHOW)
                assert shown.stdout.decode().split("\0")[:-1] == model.seen(), operation

    trio.run(compare)
