// TypeScript: types are taken out by the compiler that Node carries, decorators by Babel.
//
// What needs no more than that keeps each character's place. Enums, namespaces and parameter
// properties need new code, and then a source map says where a line came from. Decorators are what
// TypeScript 5 makes of them, or the older kind if a `tsconfig.json` beside the code asks for it.

import { readFileSync } from 'node:fs';
import { createRequire, SourceMap, stripTypeScriptTypes } from 'node:module';

import { parseCell } from './node_cells.mjs';

const INLINE_MAP = /\n?\/\/# sourceMappingURL=data:application\/json;(?:charset=utf-8;)?base64,([A-Za-z0-9+/=]+)\s*$/;

let babel = null;

/** Warms the compiler up: its first call takes tens of milliseconds. */
export function warmTypeScript() {
  for (let round = 0; round < 20; round += 1) {
    stripTypeScriptTypes('const x: number = 1; interface I { y?: string }', { mode: 'strip' });
    stripTypeScriptTypes('enum E { A }; class C { constructor(public x: number) {} }', { mode: 'transform', sourceMap: true });
  }
}

/**
 * Makes JavaScript of TypeScript.
 *
 * @returns {{code: string, maps: SourceMap[]}} The maps from the result back to the source, the last
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
  try {
    return { code: stripTypeScriptTypes(source, { mode: 'strip' }), maps: [] };
  } catch (error) {
    if (error.code !== 'ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX') throw asSyntaxError(error);
  }
  let code;
  try {
    code = stripTypeScriptTypes(source, { mode: 'transform', sourceMap: true });
  } catch (error) {
    throw asSyntaxError(error);
  }
  const map = INLINE_MAP.exec(code);
  if (map === null) return { code, maps: [] };
  const payload = JSON.parse(Buffer.from(map[1], 'base64').toString());
  return { code: code.slice(0, map.index), maps: [new SourceMap(payload)] };
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
