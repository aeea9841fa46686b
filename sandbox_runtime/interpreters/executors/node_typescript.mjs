// TypeScript: types are taken out by the compiler that Node carries, decorators by Babel.
//
// What needs no more than that keeps each character's place. Enums, namespaces and parameter
// properties need new code, and then a source map says where a line came from. Decorators are what
// TypeScript 5 makes of them, or the older kind if a `tsconfig.json` beside the code asks for it.

import { readFileSync } from 'node:fs';
import { createRequire, SourceMap, stripTypeScriptTypes } from 'node:module';
import { setFlagsFromString } from 'node:v8';

import { parseCell } from './node_cells.mjs';

const INLINE_MAP = /\n?\/\/# sourceMappingURL=data:application\/json;(?:charset=utf-8;)?base64,([A-Za-z0-9+/=]+)\s*$/;

/** What looks as if it needed new code; a wrong guess costs a second attempt. */
const NEEDS_CODE = /\b(?:enum|namespace|module)\s+[\w$'"]|\bconstructor\s*\([^)]*\b(?:public|private|protected|readonly|override)\b|\bimport\s+[\w$]+\s*=/;

let babel = null;
let isLoaded = false;

/**
 * Loads the compiler, which is WebAssembly, without V8's second compiler for that: on one cell it
 * gains nothing, and it takes its time just when the first cells run.
 */
function load() {
  if (isLoaded) return;
  isLoaded = true;
  setFlagsFromString('--liftoff-only');
  const { emitWarning } = process;
  // Node says once that the function is experimental; whoever runs a cell has not called it.
  Reflect.set(process, 'emitWarning', (warning, type, ...more) => {
    const isOurs = type === 'ExperimentalWarning' && /^stripTypeScriptTypes\b/.test(warning);
    if (!isOurs) Reflect.apply(emitWarning, process, [warning, type, ...more]);
  });
  try {
    stripTypeScriptTypes('');
  } finally {
    Reflect.set(process, 'emitWarning', emitWarning);
    setFlagsFromString('--no-liftoff-only');
  }
}

const REHEARSAL = `
import type { A } from 'a'; import { type B, c } from 'b'
interface I<T extends object = {}> extends J { x?: number; readonly y: string[]; m(a: string): void; [key: string]: any }
type U<T> = T extends string ? { [K in keyof T]?: T[K] } : 'a' | 1 | null
abstract class K<T> extends L implements I<T> {
  private static n: number = 1
  protected readonly map = new Map<string, number>()
  constructor(public x: number, private y?: string) { super() }
  get z(): number { return this.x! }
  async *walk<V>(v: V, ...rest: unknown[]): AsyncGenerator<V> { for await (const one of v as any) yield one }
  abstract area(): number
}
function over(a: string): string
function over(this: Window, a: any, b = 2, { c, d }: { c: number, d?: string } = {} as any): a is string { return a }
const f = <T,>(x: T): T => x satisfies T, o = { a: 1, 'b': [1, 2].map((n: number): number => n * 2), ...{} }
try { if (o?.a ?? false) throw new Error(\`t \${o.a}\`) } catch (e: unknown) { switch (typeof e) { case 'a': break } }
for (let i: number = 0; i < 3; i++) { label: while (true) { do { continue label } while (/x/g.test('x')) } }
let { a, ...b }: any = o, [q, , r = 1]: number[] = [];
(async () => { await Promise.all([f<number>(1)]) })()
`;
const TRANSFORMED = `
enum E { A = 1, B, C = 'c', D = A | 2 }
namespace N { export const a = 1; export namespace M { export function f(): void {} } }
${REHEARSAL}`;

/** What warms the compiler up, step by step: it is compiled itself as its parts are used. */
export function typeScriptRehearsal() {
  const round = [
    () => transpile(REHEARSAL, 'rehearsal.ts'),
    () => transpile(TRANSFORMED, 'rehearsal.ts'),
  ];
  return [load, ...round, ...round, ...round];
}

/**
 * Makes JavaScript of TypeScript.
 *
 * @returns {{code: string, maps: object[]}} The maps from the result back to the source, the last
 *   one first.
 * @throws {SyntaxError} It is no TypeScript.
 */
export function transpile(source, fileName) {
  const asSyntaxError = (error) => syntaxError(error, fileName);
  // Without `<` nothing means one thing in TypeScript and another one in JavaScript.
  if (!source.includes('<') && parseCell(source) !== null) return { code: source, maps: [] };
  const { code, maps } = withoutTypes(source, asSyntaxError);
  if (!code.includes('@') || parseCell(code) !== null) return { code, maps };
  const lowered = withoutDecorators(code, fileName);
  if (lowered === null) return { code, maps };
  return { code: lowered.code, maps: [new SourceMap(lowered.map), ...maps] };
}

function withoutTypes(source, asSyntaxError) {
  load();
  if (!NEEDS_CODE.test(source)) {
    try {
      return { code: stripTypeScriptTypes(source, { mode: 'strip' }), maps: [] };
    } catch (error) {
      if (error.code !== 'ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX') throw asSyntaxError(error);
    }
  }
  let code;
  try {
    code = stripTypeScriptTypes(source, { mode: 'transform', sourceMap: true });
  } catch (error) {
    throw asSyntaxError(error);
  }
  const map = INLINE_MAP.exec(code);
  if (map === null) return { code, maps: [] };
  return { code: code.slice(0, map.index), maps: [new LateMap(map[1])] };
}

/** A source map that is read when somebody asks it. */
class LateMap {
  #encoded;
  #map = null;

  constructor(encoded) {
    this.#encoded = encoded;
  }

  findEntry(line, column) {
    this.#map ??= new SourceMap(JSON.parse(Buffer.from(this.#encoded, 'base64').toString()));
    return this.#map.findEntry(line, column);
  }
}

/** The compiler's error with nothing of Node's, and with the place where it is. */
function syntaxError(error, fileName) {
  const clean = new SyntaxError(error.message.trim());
  // The line's number, the lines up to it, and a caret below.
  const found = /^[^\n]*?:(\d+)\n(?:[^\n]*\n)*?([^\n]*)\n( *)\^+\n/.exec(error.stack ?? '');
  if (found) {
    const [, line, text, before] = found;
    clean.excerpt = `${fileName}:${line}:${before.length + 1}\n${text}\n${before}^`;
  }
  return clean;
}

function withoutDecorators(code, fileName) {
  babel ??= createRequire(import.meta.url)('./vendor/babel.min.js');
  const kind = wantsOlderDecorators() ? { version: 'legacy' } : { version: '2023-11' };
  try {
    return babel.transform(code, {
      babelrc: false,
      configFile: false,
      filename: fileName,
      sourceMaps: true,
      sourceType: 'unambiguous',
      parserOpts: { allowAwaitOutsideFunction: true, errorRecovery: true },
      plugins: [[babel.availablePlugins['proposal-decorators'], kind]],
    });
  } catch {
    return null; // V8 says what is wrong with it
  }
}

function wantsOlderDecorators() {
  try {
    return /"experimentalDecorators"\s*:\s*true/.test(readFileSync('tsconfig.json', 'utf8'));
  } catch {
    return false;
  }
}
