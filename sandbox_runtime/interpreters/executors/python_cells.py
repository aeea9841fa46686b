"""The short way of a cell that is Python and nothing else.

IPython asks every cell whether it is a magic, a prompt that was pasted, a macro, or something that
somebody has registered a hook for; most of what a short cell costs is these questions, and every
function that is called for them is two pages of memory that a fork shares no longer. Where a look
at the text and at what is registered shows that all answers are no, the steps that are left are
done here one after another, with the same effects in the same order.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import ast
import codeop
import importlib
import linecache
import operator
import re
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

from IPython import version_info
from IPython.core.autocall import IPyAutocall
from IPython.core.compilerop import CachingCompiler
from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult
from IPython.core.macro import Macro
from traitlets import All

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

    from .python_shell import Shell

_sha1: Callable[..., Any] | None
try:
    # Python's own, not OpenSSL's: 20 pages less that a cell writes to.
    _sha1 = importlib.import_module("_sha1").sha1
except ImportError:
    _sha1 = None

_NOT_PLAIN = re.compile(
    r"\A\s"  # an indented cell, or an empty one
    r"|[%!?]|^\s*[,;/]"  # magics, commands, help, quoted calls
    r"|>>>|\.\.\.|In \["  # prompts
    r"|await|async"
    r"|^[ \t]+$",  # IPython empties such lines, also in the middle of a text
    re.MULTILINE,
)
_FIRST_WORD = re.compile(r"[\w.*]*")
_NO_SIMPLE_STATEMENT = re.compile(
    r"[;:]|\n."  # several statements, or one of several lines
    r"|\\|\d[A-Za-z]"  # what the parser may warn of, which it would do twice
    r"|\b(?:is|assert|return|yield|import|from|nonlocal|global|break|continue)\b",
    re.DOTALL,
)
_PATCHABLE = frozenset(
    {"transform_cell", "_run_cell", "run_cell_async", "run_ast_nodes", "run_code", "transform_ast"}
    | {"cache", "ast_parse", "get_code_name", "store_inputs", "store_output", "log"}
)
_FUTURES = 0
for _feature in codeop._features:  # type: ignore[attr-defined]  # noqa: SLF001 - as `Compile` itself
    _FUTURES |= _feature.compiler_flag
_NO_PYTHON = (SyntaxError, ValueError, TypeError, OverflowError, MemoryError, RecursionError)
_EMPTY: dict[str, Any] = {}
_looked_at = operator.itemgetter(
    *("input_transformer_manager", "input_transformers_post", "ast_transformers"),
    *("ast_node_interactivity", "history_manager"),
)
_TOP_LEVEL_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


CELL_NAME = re.compile(r"<ipython-input-[^>]+>")
"""What IPython calls the code of a cell."""
_KNOWN = ((9, 16), (9, 18))


def is_known_ipython() -> bool:
    """Whether this IPython is one whose way has been compared with the short one."""
    return _KNOWN[0] <= version_info[:2] <= _KNOWN[1]


class _Plan(NamedTuple):
    """A cell that is plain: its text with an end of its last line, and what that was parsed to."""

    text: str
    name: str
    number: int
    parsed: ast.Module | CodeType | SyntaxError


class PlainCells:
    """Runs the plain cells of a shell; to be made when nothing has been registered with it."""

    def __init__(self, shell: Shell) -> None:
        manager: Any = shell.input_transformer_manager
        prefilter: Any = shell.prefilter_manager
        self._shell = shell
        self._cleanup_transforms = [*manager.cleanup_transforms]
        self._line_transforms = [*manager.line_transforms]
        self._token_transformers = [*manager.token_transformers]
        self._checkers = list(prefilter.checkers)
        self._pre_execute = [*shell.events.callbacks["pre_execute"]]
        self._pre_run_cell = [*shell.events.callbacks["pre_run_cell"]]

    def _is_usual(self) -> bool:
        """Whether nobody has registered, replaced or patched anything that changes cells."""
        shell: Any = self._shell
        try:
            manager, later, of_trees, shown, history = _looked_at(shell._trait_values)  # noqa: SLF001
        except KeyError:  # one that has its first value when somebody asks
            manager, later, of_trees, shown, history = _looked_at(_TraitsOf(shell))
        callbacks, compiler, logger = shell.events.callbacks, shell.compile, shell.logger
        return (
            manager.cleanup_transforms == self._cleanup_transforms
            and manager.line_transforms == self._line_transforms
            and manager.token_transformers == self._token_transformers
            and not (later or of_trees)
            and shown == "last_expr"
            and not (shell.trio_runner or logger.log_active)
            and callbacks["pre_execute"] == self._pre_execute
            and callbacks["pre_run_cell"] == self._pre_run_cell
            and compiler.__class__ is CachingCompiler
            and shell.__dict__.keys().isdisjoint(_PATCHABLE)
            and compiler.__dict__.keys().isdisjoint(_PATCHABLE)
            and history.__dict__.keys().isdisjoint(_PATCHABLE)
            and logger.__dict__.keys().isdisjoint(_PATCHABLE)
        )

    def _is_command(self, line: str) -> bool:
        """Whether a line might be more than Python by its first word, as `ls` or `exit`."""
        shell: Any = self._shell
        prefilter = trait(shell, "prefilter_manager")
        usual = prefilter.checkers == self._checkers and not prefilter.transformers
        if trait(shell, "autocall") or not usual:
            return True
        found = _FIRST_WORD.match(line)
        word = found[0] if found else ""
        magics = trait(trait(shell, "magics_manager"), "magics")
        return (
            word in magics["line"]
            or word in magics["cell"]
            or isinstance(shell.user_ns.get(word), (Macro, IPyAutocall))
        )

    def run(self, raw_cell: str, *, store_history: bool, silent: bool) -> Any:
        """Runs a cell as `InteractiveShell.run_cell` would, or returns None and has done nothing.

        Args:
            raw_cell: The code.
            store_history: Whether it is counted and remembered.
            silent: Whether the value of its last expression is no result; nothing is counted then.
        """
        plan = self._plan(raw_cell, silent=silent)
        if plan is None:
            return None
        return self._execute(
            raw_cell, plan, store_history=store_history and not silent, silent=silent
        )

    def _plan(self, raw_cell: str, *, silent: bool) -> _Plan | None:
        """What is to be done for a plain cell; None if IPython has to look at it."""
        if _NOT_PLAIN.search(raw_cell) or not raw_cell or not self._is_usual():
            return None
        text = raw_cell if raw_cell.endswith("\n") else f"{raw_cell}\n"
        lines = text.splitlines()
        if len(lines) == 1 and self._is_command(text):
            return None
        shell: Any = self._shell
        number = trait(shell, "execution_count")
        try:
            name = _code_name(shell.compile, raw_cell, text, number)
            self._show_source(name, number, text, lines)
            if not silent and (code := self._compile_simple(text, name)) is not None:
                return _Plan(text, name, number, code)
            tree = shell.compile.ast_parse(text, filename=name)
        except _NO_PYTHON as error:
            if raised_in_cell(error):
                raise  # by the handler of a signal that came meanwhile
            # The usual way would parse it once more, and so give the parser's warnings twice.
            if not isinstance(error, SyntaxError) or shell.custom_exceptions:
                return None
            return _Plan(text, name, number, error)
        return _Plan(text, name, number, tree)

    def _compile_simple(self, text: str, name: str) -> CodeType | None:
        """A cell of one simple statement in one step, without a tree of Python's objects.

        If that is an expression its value is shown, as that of the last one of any cell. None if it
        is something else, or no Python: whoever parses it says so.
        """
        if _NO_SIMPLE_STATEMENT.search(text):
            return None
        compiler: Any = self._shell.compile
        try:
            code: CodeType = compile(text, name, "single", self._flags(compiler), dont_inherit=True)
        except _NO_PYTHON as error:
            if raised_in_cell(error):
                raise
            return None
        return code

    def _flags(self, compiler: Any) -> int:
        flags: int = compiler.flags
        return flags | _TOP_LEVEL_AWAIT if trait(self._shell, "autoawait") else flags

    def _execute(self, raw_cell: str, plan: _Plan, *, store_history: bool, silent: bool) -> Any:
        shell: Any = self._shell
        info = ExecutionInfo(
            raw_cell, store_history, silent, True, None, None, transformed_cell=plan.text
        )
        result = ExecutionResult(info)
        try:
            result.execution_count = plan.number
            if store_history:
                set_quietly(shell, execution_count=plan.number + 1)
            self._trigger("pre_execute")
            if not silent:
                self._trigger("pre_run_cell", info)
            if store_history:
                self._remember(plan.number, plan.text, raw_cell)
            with trait(shell, "builtin_trap"), trait(shell, "display_trap"):
                if isinstance(plan.parsed, SyntaxError):
                    self._refuse(plan.parsed, result)
                    failed = True
                else:
                    set_quietly(shell.displayhook, exec_result=result)
                    failed = self._run_parsed(plan.parsed, plan.name, result, silent=silent)
                    set_quietly(shell.displayhook, exec_result=None)
                set_quietly(
                    shell, last_execution_succeeded=not failed, last_execution_result=result
                )
            if store_history:
                self._remember_end(plan, result)
        except BaseException as error:  # noqa: BLE001 - an interrupt between two statements
            result = ExecutionResult(info)
            result.error_in_exec = error
        finally:
            self._trigger("post_execute")
            if not silent:
                self._trigger("post_run_cell", result)
        return result

    def _refuse(self, error: SyntaxError, result: Any) -> None:
        """Tells what is wrong with a cell that cannot be parsed."""
        try:
            raise error
        except IndentationError:
            self._shell.showindentationerror()
        except SyntaxError:
            self._shell.showsyntaxerror()
        result.error_before_exec = error

    def _show_source(self, name: str, number: int, text: str, lines: list[str]) -> None:
        """As `CachingCompiler.cache`, which would hash the text once more.

        Before the text is parsed, since the parser's warnings show the line.
        """
        compiler: Any = self._shell.compile
        compiler._filename_map[name] = number  # noqa: SLF001
        linecache.cache[name] = (len(text), None, [f"{line}\n" for line in lines], name)

    def _trigger(self, event: str, *told: object) -> None:
        events = self._shell.events
        if events.callbacks[event]:
            events.trigger(event, *told)

    def _run_parsed(
        self, parsed: ast.Module | CodeType, name: str, result: Any, *, silent: bool
    ) -> bool:
        """Compiles what is not yet and runs one statement after another; True if one has failed."""
        shell = self._shell
        compiler: Any = shell.compile
        try:
            if not isinstance(parsed, ast.Module):
                return shell.run_statement(parsed, result)
            statements = parsed.body
            shown = statements[-1] if statements and not silent else None
            for statement in statements:
                tree: ast.mod
                if statement is shown and isinstance(statement, ast.Expr):
                    tree, mode = ast.Interactive([statement]), "single"
                else:
                    tree, mode = ast.Module([statement], []), "exec"
                code = compile(tree, name, mode, self._flags(compiler), dont_inherit=True)
                compiler.flags |= code.co_flags & _FUTURES
                if shell.run_statement(code, result):
                    return True
        except BaseException as error:  # noqa: BLE001 - what parses need not compile: a lone `return`
            result.error_before_exec = error
            shell.showtraceback()
            return True
        return False

    def _remember(self, number: int, cell: str, raw_cell: str) -> None:
        """As `HistoryManager.store_inputs`, without a notification for each of the variables."""
        shell: Any = self._shell
        history = trait(shell, "history_manager")
        source, source_raw = cell.rstrip("\n"), raw_cell.rstrip("\n")
        if history._exit_re.match(source_raw.strip()):  # noqa: SLF001
            return
        trait(history, "input_hist_parsed").append(source)
        trait(history, "input_hist_raw").append(source_raw)
        last, older, oldest = trait(history, "_i00"), trait(history, "_i"), trait(history, "_ii")
        set_quietly(history, _i=last, _ii=older, _iii=oldest, _i00=source_raw)
        variables = {"_i": last, "_ii": older, "_iii": oldest, f"_i{number}": source_raw}
        shell.push(variables, interactive=False)

    def _remember_end(self, plan: _Plan, result: Any) -> None:
        shell: Any = self._shell
        history = trait(shell, "history_manager")
        refused = isinstance(plan.parsed, SyntaxError)
        if not refused and trait(history, "db_log_output"):
            history.store_output(plan.number)
        error = plan.parsed if refused else result.error_in_exec
        if error is not None:
            history.exceptions[plan.number] = shell._format_exception_for_storage(error)  # noqa: SLF001


def _code_name(compiler: Any, raw_cell: str, cell: str, number: int) -> str:
    """The name of a cell's code, as the compiler gives it."""
    if _sha1 is None:
        return str(compiler.get_code_name(raw_cell, cell, number))
    digest = _sha1(cell.encode(), usedforsecurity=False).hexdigest()
    return f"<ipython-input-{number}-{digest[:12]}>"


def raised_in_cell(error: BaseException) -> bool:
    """Whether an error came through code of a cell, and not from the machinery alone."""
    return any(
        CELL_NAME.fullmatch(frame.f_code.co_filename)
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def trait(owner: Any, name: str) -> Any:
    """The value of a trait, most often without a call of its descriptor."""
    values = owner._trait_values  # noqa: SLF001
    return values[name] if name in values else getattr(owner, name)


class _TraitsOf:
    """The traits of an object as a mapping, with their first values where they have none yet."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    def __getitem__(self, name: str) -> Any:
        return getattr(self._owner, name)


def set_quietly(owner: Any, **values: object) -> None:
    """Sets traits whose values are known to be right, without asking who wants to hear of them.

    Somebody does: then they are set as usual.
    """
    heard = owner._trait_notifiers  # noqa: SLF001
    if All not in heard and heard.keys().isdisjoint(values):
        owner._trait_values.update(values)  # noqa: SLF001
        return
    of_all = any(heard.get(All, _EMPTY).values())
    for name, value in values.items():
        if of_all or any(heard.get(name, _EMPTY).values()):
            setattr(owner, name, value)
        else:
            owner._trait_values[name] = value  # noqa: SLF001
