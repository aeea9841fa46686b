"""TypeScript contexts: what is more than JavaScript, and where its errors are."""

from __future__ import annotations

import pytest
import trio

from sandbox_runtime import Context, InterpreterUnavailableError, Sandbox
from sandbox_runtime.interpreters.installation import node_candidates
from sandbox_runtime.interpreters.node import NodeFinder


@pytest.fixture(scope="session", autouse=True)
def node() -> None:
    """Skips everything, loudly, where there is no Node that is new enough."""
    try:
        trio.run(NodeFinder(node_candidates()).find)
    except InterpreterUnavailableError:
        pytest.skip("NO NODE 22.13 OR NEWER: nothing of TypeScript was tested; install it")


# Nothing is made ahead: that would take time from the tests.
pytestmark = pytest.mark.sandbox_options(node_pool=0)


@pytest.fixture
async def context(sandbox: Sandbox) -> Context:
    """A context of that sandbox."""
    return await sandbox.create_code_context("ts")


async def value(context: Context, code: str) -> str | None:
    execution = await context.run(code, deadline_s=30)
    assert execution.error is None, execution.error
    return execution.text


async def failure(context: Context, code: str) -> tuple[str, str, str]:
    execution = await context.run(code, deadline_s=30)
    assert execution.error is not None, execution
    return execution.error.name, execution.error.value, execution.error.traceback


async def test_the_first_cell_prints_no_warning_that_its_code_did_not_cause(
    context: Context,
) -> None:
    execution = await context.run("enum E { A }; console.log(E.A as number)", deadline_s=30)
    assert (execution.stdout, execution.stderr) == (b"0\n", b"")


async def test_warnings_that_the_code_causes_are_printed(context: Context) -> None:
    code = "const kind: string = 'ExperimentalWarning'; process.emitWarning('mine', kind)"
    execution = await context.run(
        f"{code}; await new Promise((done) => setImmediate(done))", deadline_s=30
    )
    assert b"ExperimentalWarning: mine" in execution.stderr


VALUES = [
    ("const n: number = 1; n", "1"),
    ("enum A { X, Y = 5 }; [A.X, A.Y, A[5]]", "[ 0, 5, 'Y' ]"),
    ("const enum C { Z = 'z' }; C.Z", "'z'"),
    ("namespace N { export const a = 1; export namespace M { export const b = 2 } }; N.M.b", "2"),
    ("class P { constructor(public x: number, private readonly y = 2) {} }; new P(1)", None),
    ("abstract class S { abstract a(): number }; class Q extends S { a() { return 4 } }", None),
    ("new Q().a()", "4"),
    (
        "interface I { a: string }; type T<X> = X extends string ? 1 : 2; const t: T<'a'> = 1; t",
        "1",
    ),
    ("const f = <T,>(x: T): T => x; f<number>(3)", "3"),
    ("let u = 'a' as unknown as string; u satisfies string; u!.length", "1"),
    ("import type { X } from 'nowhere'; import { type Y, sep } from 'path'; sep", "'/'"),
    ("import fs = require('fs'); typeof fs.statSync", "'function'"),
    ("export interface E {}; export const e: number = 4; e", "4"),
    ("await (async (x: number): Promise<number> => x)(5)", "5"),
    ("class G<T> { items: T[] = []; add(t: T): this { this.items.push(t); return this } }", None),
    ("new G<number>().add(1).items", "[ 1 ]"),
    ("function over(a: string): string; function over(a: any) { return a }; over('o')", "'o'"),
    ("declare const nothing: number; typeof nothing", "'undefined'"),
    ("const n: string = 'again'; n", "'again'"),
]


async def test_typescript_runs(context: Context) -> None:
    for code, text in VALUES:
        shown = await value(context, code)
        assert text is None or shown == text, code


async def test_an_enum_and_a_class_may_be_declared_again(context: Context) -> None:
    for _ in range(2):
        assert (
            await value(context, "enum Twice { A }; class K { x: number = Twice.A }; new K().x")
            == "0"
        )


DECORATED = """
function log(value: Function, context: ClassMethodDecoratorContext) {
  return function (this: any, ...args: any[]) {
    console.log(`call ${String(context.name)}`)
    return value.apply(this, args)
  }
}
function sealed(value: Function, context: ClassDecoratorContext) { console.log(context.kind) }
@sealed
class D {
  @log twice(n: number): number { return n * 2 }
  bad(): never {
    throw new Error('in a decorated class')
  }
}
new D().twice(4)
"""


async def test_decorators_are_those_of_typescript_5(context: Context) -> None:
    execution = await context.run(DECORATED, deadline_s=30)
    assert execution.error is None, execution.error
    assert (execution.text, execution.stdout) == ("8", b"class\ncall twice\n")
    assert "cell-1.ts:13:11" in (await failure(context, "new D().bad()"))[2]


async def test_older_decorators_are_there_for_who_asks(context: Context, sandbox: Sandbox) -> None:
    config = b'{"compilerOptions": {"experimentalDecorators": true /* as ever */}}'
    await sandbox.files.write("tsconfig.json", config)
    code = """
        function log(target: any, name: string, descriptor: PropertyDescriptor) {
          const inner = descriptor.value
          descriptor.value = (...args: any[]) => ['logged', inner(...args)]
        }
        class Old { @log m(n: number) { return n } }
        new Old().m(1)
    """
    assert await value(context, code) == "[ 'logged', 1 ]"


STRIPPED = """interface I {
  a: string
}
function f(i: I): never {
  throw new Error('x')
}
f({a: ''})"""

TRANSFORMED = """enum E {
  A,
  B
}
interface I {}
function f(): void {
  throw new Error('x')
}

f()"""

WITH_PROPERTIES = """class P {
  constructor(private a: number) {}
  m() { return (null as any).b }
}
new P(1).m()"""


@pytest.mark.parametrize(
    ("code", "places"),
    [
        (STRIPPED, ["5:9", "7:1"]),
        (TRANSFORMED, ["7:9", "10:1"]),
        (WITH_PROPERTIES, ["3:30", "5:10"]),
    ],
)
async def test_errors_are_at_the_users_own_lines(
    context: Context, code: str, places: list[str]
) -> None:
    traceback = (await failure(context, code))[2]
    for place in places:
        assert f"cell-1.ts:{place}" in traceback


async def test_an_error_of_syntax_says_where_it_is(context: Context) -> None:
    name, message, traceback = await failure(context, "let a: number = 1\nlet b: string = = 2")
    assert (name, message) == ("SyntaxError", "Expression expected")
    assert traceback == (
        "cell-1.ts:2:17\nlet b: string = = 2\n                ^\n\nSyntaxError: Expression expected"
    )


async def test_types_are_not_checked(context: Context) -> None:
    assert await value(context, "const n: number = 'no number' as string; n") == "'no number'"


async def test_modules_of_typescript_are_found_without_their_extension(
    context: Context, sandbox: Sandbox
) -> None:
    module = b"export interface Shape { a: number }\nexport const area = (s: Shape): number => s.a"
    await sandbox.files.write("shapes.ts", module)
    assert await value(context, "import { Shape, area } from './shapes'; area({a: 3})") == "3"


async def test_it_is_interrupted_as_javascript_is(context: Context) -> None:
    await context.run("let kept: string = 'kept'")
    execution = await context.run("for (;;) { const n: number = 1 }", deadline_s=0.2)
    assert (execution.ended, execution.state_survived) == ("deadline", True)
    assert await value(context, "kept") == "'kept'"


async def test_types_after_another_language(sandbox: Sandbox) -> None:
    code = """
        interface User { id: number; name: string }
        const users: User[] = [{ id: 1, name: 'Ada' }]
        console.log(users.map((user: User): string => user.name).join())
        users
    """
    execution = await sandbox.run_code(code, language="typescript")
    assert execution.stdout == b"Ada\n"
    assert execution.results[0].json == [{"id": 1, "name": "Ada"}]
