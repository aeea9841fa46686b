// Globals: what a cell finds besides Node's own, and streams that write each byte at once.

import { Console } from 'node:console';
import { createRequire } from 'node:module';
import path from 'node:path';
import { Writable } from 'node:stream';
import { pathToFileURL } from 'node:url';
import vm from 'node:vm';

import { IMPORT } from './node_cells.mjs';

const { defineProperty, getOwnPropertyDescriptor } = Object;
const NOT_FOUND = new Set(['ERR_MODULE_NOT_FOUND', 'ERR_UNSUPPORTED_DIR_IMPORT']);

/**
 * Writes through to a descriptor; what cannot be written any more is dropped, as by a closed pipe.
 *
 * It keeps no state of its own between two writes, because an interrupt may end one anywhere.
 */
class Output extends Writable {
  #write;

  constructor(fd, write) {
    super({ autoDestroy: false, emitClose: false });
    this.fd = fd;
    this._isStdio = true;
    this._type = 'pipe';
    this.#write = write;
  }

  write(chunk, encoding, done) {
    const callback = typeof encoding === 'function' ? encoding : done;
    if (typeof chunk !== 'string' && !ArrayBuffer.isView(chunk)) {
      const got = chunk === null ? 'null' : typeof chunk;
      const error = new TypeError(`The "chunk" argument must be of type string or an instance of Buffer, TypedArray, or DataView. Received ${got}`);
      error.code = 'ERR_INVALID_ARG_TYPE';
      throw error;
    }
    const bytes = typeof chunk === 'string'
      ? Buffer.from(chunk, typeof encoding === 'string' ? encoding : 'utf8')
      : Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    this.#write(this.fd, bytes);
    if (typeof callback === 'function') process.nextTick(callback);
    return true;
  }

  // Whoever ends the process's streams ends none of the next run.
  end(chunk, encoding, done) {
    if (chunk !== undefined && chunk !== null && typeof chunk !== 'function') this.write(chunk, encoding);
    const callback = [chunk, encoding, done].find((one) => typeof one === 'function');
    process.nextTick(() => {
      this.emit('finish');
      callback?.();
    });
    return this;
  }

  destroy() { return this; }
}

/** Makes `process.stdout` and `process.stderr`, and `console` on them. */
export function arrangeStreams(write) {
  const [stdout, stderr] = [new Output(1, write), new Output(2, write)];
  defineProperty(process, 'stdout', { get: () => stdout, configurable: true, enumerable: true });
  defineProperty(process, 'stderr', { get: () => stderr, configurable: true, enumerable: true });
  // Node's own keeps the last thousand messages and what they hold, for a debugger.
  const { Console: constructor } = globalThis.console;
  const plain = new Console({ stdout, stderr });
  plain.Console = constructor;
  define('console', plain);
}

/** Adds globals that are no surprise to whoever lists them. */
export function arrangeGlobals(own, { isLenient }) {
  for (const [name, value] of Object.entries(own)) define(name, value);
  const importIn = makeImport(isLenient);
  define(IMPORT, importIn);
  arrangeModule = (directory) => {
    importIn.start(directory);
    define('require', createRequire(path.join(directory, 'cell.js')));
    const module = { exports: {}, id: '.', filename: path.join(directory, 'cell.js'), loaded: false, children: [], paths: globalThis.require.resolve.paths('x') ?? [] };
    define('module', module);
    define('exports', module.exports);
    define('__filename', module.filename);
    define('__dirname', directory);
  };
}

let arrangeModule = () => {};

/** Begins a context in its directory, with its environment and nothing of another one. */
export function startIn(cwd, env) {
  process.chdir(cwd);
  for (const name of Object.keys(process.env)) delete process.env[name];
  for (const [name, value] of Object.entries(env)) process.env[name] = value;
  arrangeModule(cwd);
}

function define(name, value) {
  defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });
}

/** A cell is about to declare a name: where a global of Node's is in the way, it becomes a plain one. */
export function makeReplaceable(name) {
  const found = getOwnPropertyDescriptor(globalThis, name);
  if (found?.configurable && (found.get || !found.writable)) define(name, globalThis[name]);
}

/**
 * What `import` is in a cell: relative to the context's directory, and as strict as Node's about
 * names that are not there, but for TypeScript, where such a name may be a type.
 */
function makeImport(isLenient) {
  let base = '/';
  let load = null;

  const find = async (specifier, options) => {
    try {
      return await load(specifier, options);
    } catch (error) {
      const found = NOT_FOUND.has(error?.code) && /^\.{0,2}\//.test(specifier) && resolve(specifier);
      if (!found) throw error;
      return load(pathToFileURL(found).href, options);
    }
  };
  // As `require` finds it: without its extension, or a directory's index.
  const resolve = (specifier) => {
    for (const extension of ['', '.ts', '.mts', '.cts', '.mjs', '/index.ts', '/index.mjs']) {
      try {
        return createRequire(path.join(base, 'cell.js')).resolve(specifier + extension);
      } catch { /* the next one */ }
    }
    return null;
  };

  const importIn = async (specifier, options, names) => {
    const namespace = await find(`${specifier}`, options ?? undefined);
    if (names === undefined) return namespace;
    const found = {};
    for (const name of names) {
      if (name in namespace) found[name] = namespace[name];
      else if (namespace.default && typeof namespace.default === 'object' && name in namespace.default) {
        found[name] = namespace.default[name];
      } else if (!isLenient()) {
        throw new SyntaxError(`The requested module '${specifier}' does not provide an export named '${name}'`);
      }
    }
    return found;
  };
  defineProperty(importIn, 'constant', {
    set: () => {
      throw new TypeError('Assignment to constant variable.');
    },
  });
  importIn.start = (directory) => {
    base = directory;
    const filename = path.join(directory, 'cell.mjs');
    load = new vm.Script('(specifier, options) => import(specifier, options)', {
      filename,
      importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
    }).runInThisContext();
    load('node:fs'); // Node warns of this, once and now, when nobody reads
    importIn.meta = {
      dirname: directory,
      filename,
      url: pathToFileURL(filename).href,
      resolve: (specifier) => {
        const found = createRequire(filename).resolve(specifier);
        return path.isAbsolute(found) ? pathToFileURL(found).href : found;
      },
    };
  };
  return importIn;
}
