// The executor: holds one JavaScript or TypeScript context and serves it over a private socket.
//
// Started as `node node_executor.mjs`, with the socket as 3 and the addon as 4. It speaks what its
// first frame says, and changes that as long as no cell has run, since it may wait in a pool for
// whoever comes. Frames are
// those of the Python executor: a 4-byte big-endian length and UTF-8 JSON. A `run` frame brings the
// write ends of two pipes, which are this run's 1 and 2 and nobody else's, also for what C code and
// children write; after the run 1 and 2 are `/dev/null` again, so the pipes' EOF says that all is in.
//
// A run is over when its last value is there (a promise is awaited) and then, as a script of Node's,
// when nothing is left that it waits for: timers, files, requests, children. What serves rather
// than finishes does not hold it: servers, sockets that are no HTTP request, what is `unref`ed.
//
// User code runs in this very process and can harm its own context. Nothing of ours is a global of
// its, and what we call is bound before it runs; more is not needed, since the jail contains it.

import { ChildProcess } from 'node:child_process';
import { subscribe } from 'node:diagnostics_channel';
import dgram from 'node:dgram';
import net from 'node:net';
import vm from 'node:vm';

import { forgetCell, isPlain, rewriteCell } from './node_cells.mjs';
import { declareConstants } from './node_constants.mjs';
import { describeError, excerptOf, prepareStackTrace, rememberCell } from './node_errors.mjs';
import { arrangeGlobals, arrangeStreams, makeReplaceable, startIn } from './node_globals.mjs';
import { endTimers, watchTimers } from './node_timers.mjs';
import { transpile, typeScriptRehearsal } from './node_typescript.mjs';
import { capFormats, describeValue, encodeFrame, makeDisplay } from './node_values.mjs';

const MOST_STRAYS = 20;

let isTypeScript = false;
/** Whether the run is one that nobody has asked for. */
let isRehearsing = false;

const addon = { exports: {} };
process.dlopen(addon, '/proc/self/fd/4');
const native = addon.exports;

let run = null;
let runs = 0;
/** Errors of what went on between two runs. */
let strays = [];
// --- evaluation ----------------------------------------------------------------------------------

const { Script } = vm;
const { USE_MAIN_CONTEXT_DEFAULT_LOADER } = vm.constants;

function evaluate(source, number) {
  const mine = run;
  const fileName = `cell-${number}.${isTypeScript ? 'ts' : 'js'}`;
  const cell = { source, fileName, edits: [], maps: [] };
  rememberCell(number, cell);
  let script = plainScript(source, fileName);
  try {
    script ??= rewrittenScript(cell);
  } catch (error) {
    return settle(mine, describeError(error, excerptOf(error)));
  }
  let value;
  try {
    value = script.runInThisContext({ displayErrors: false });
  } catch (error) {
    return settle(mine, describeError(error));
  }
  give(mine, value);
}

const compile = (code, filename) =>
  new Script(code, { filename, importModuleDynamically: USE_MAIN_CONTEXT_DEFAULT_LOADER });

/** A cell that needs no rewriting in either language, as V8 alone can tell; else null. */
function plainScript(source, fileName) {
  if (!isPlain(source)) return null;
  try {
    return compile(source, fileName);
  } catch {
    return null; // types, perhaps, or what is wrong with it is told below
  }
}

function rewrittenScript(cell) {
  let code = cell.source;
  if (isTypeScript) ({ code, maps: cell.maps } = transpile(code, cell.fileName));
  const rewritten = rewriteCell(code);
  forgetCell();
  cell.edits = rewritten.edits;
  rewritten.declared.forEach(makeReplaceable);
  const script = compile(rewritten.code, cell.fileName);
  declareConstants(rewritten.declared, rewritten.constant);
  return script;
}

/** Shows a cell's value, once it is there. */
async function give(mine, promised) {
  try {
    const value = await promised;
    if (mine.settled) return;
    if (value !== undefined) {
      const described = await describeValue(value);
      if (mine.settled) return;
      // Where nothing is left to wait for, the run is about to end: its result goes along with that.
      emit({ type: 'result', ...described }, { isLast: !native.alive() });
    }
    settle(mine, null);
  } catch (error) {
    if (!mine.settled) settle(mine, describeError(error));
  }
}

// --- a run ---------------------------------------------------------------------------------------

function begin({ id, code }) {
  run = { id, settled: false, error: null, interrupted: false, before: native.usage() };
  runs += 1;
  native.begin();
  const errno = native.attach();
  if (errno !== 0) {
    return settle(run, describeError(new Error(`the run's output could not be attached (errno ${errno})`)));
  }
  Error.prepareStackTrace ??= prepareStackTrace;
  watchTimers();
  for (const text of strays) process.stderr.write(text);
  strays = [];
  evaluate(code, runs);
}

/** The value is there, or an error: what the run has left waiting is all that holds it. */
function settle(mine, error) {
  mine.settled = true;
  mine.error ??= error;
  if (isRehearsing) finish();
  else native.drain();
}

/** Each turn of the loop while a run drains. */
function onTurn(isAlive) {
  if (run === null) return;
  if (isAlive) {
    for (const handle of process._getActiveHandles()) {
      if (isServing(handle)) handle.unref();
    }
    if (native.alive()) {
      // Chains of callbacks end one by one: of each turn, the first that runs is stopped.
      if (run.interrupted) native.stop();
      return;
    }
  }
  finish();
}

function isServing(handle) {
  if (handle instanceof net.Server || handle instanceof dgram.Socket) return true;
  return handle instanceof net.Socket && (handle.server || !isRequest(handle));
}

/** Whether a socket belongs to a request of HTTP: of `node:http`, or of `fetch`. */
function isRequest(socket) {
  if (socket._httpMessage || socket._parent) return true;
  if (socket.remoteAddress === undefined && socket.remoteFamily === undefined && !socket.connecting) {
    return true; // a pipe to a child
  }
  return Object.getOwnPropertySymbols(socket).some((symbol) => symbol.description === 'parser' || symbol.description === 'client');
}

function finish() {
  if (!isRehearsing) native.end();
  const mine = run;
  if (mine.error) emit(mine.error);
  if (!isRehearsing) native.detach();
  run = null;
  const [user, system, memory] = native.usage();
  const status = mine.interrupted ? 'interrupted' : mine.error ? 'error' : 'ok';
  send({
    type: 'done',
    id: mine.id,
    status,
    execution_count: runs,
    usage: {
      user_us: Math.max(0, user - mine.before[0]),
      system_us: Math.max(0, system - mine.before[1]),
      max_rss_bytes: memory,
    },
  });
  isRehearsing = false;
}

/** A run is stopped; called again as long as it has not given way. */
function onInterrupt() {
  if (run === null) return;
  run.interrupted = true;
  run.error ??= { type: 'error', name: 'Interrupted', value: 'the run was interrupted', traceback: ['Interrupted: the run was interrupted'] };
  run.settled = true;
  endTimers();
  for (const handle of process._getActiveHandles()) {
    if (handle instanceof ChildProcess) {
      handle.kill('SIGKILL');
      handle.unref();
    } else if (handle instanceof net.Socket && !isServing(handle)) {
      handle.destroy();
    }
  }
  native.drain();
}

/** What nothing has caught: an error of the run, or of what goes on between runs. */
function onUncaught(error) {
  if (run === null) {
    if (strays.length < MOST_STRAYS) strays.push(`Uncaught between runs: ${describeError(error).traceback.join('\n')}\n`);
    return;
  }
  if (run.interrupted) return;
  const frame = describeError(error);
  if (run.error === null) {
    settle(run, frame);
  } else {
    process.stderr.write(`Uncaught ${frame.traceback.join('\n')}\n`);
  }
}

// --- frames --------------------------------------------------------------------------------------

function emit(frame, { isLast = false } = {}) {
  if (run === null) return;
  if (frame.data === undefined) return void send({ ...frame, id: run.id });
  const { data, capped } = capFormats(frame.data);
  send({ ...frame, data, id: run.id, ...(Object.keys(capped).length ? { capped } : {}) }, isLast);
}

/**
 * Sends a frame; one that is held goes out with the next, or before anything is printed. It is lost
 * if a signal ends the process in the same turn of the loop.
 */
function send(frame, isHeld = false) {
  const body = Buffer.from(encodeFrame(frame));
  if (isRehearsing) return;
  if (isHeld) native.hold(body);
  else if (native.send(body) !== 0) process.reallyExit(1); // nobody listens
}

function onFrame(bytes) {
  const frame = JSON.parse(bytes.toString());
  endRehearsal();
  if (frame.type === 'run') begin(frame);
  else if (frame.type === 'language') isTypeScript = frame.language === 'typescript';
  else prepare(frame);
}

// --- the start -----------------------------------------------------------------------------------

function prepare(frame) {
  try {
    for (const [resource, most] of Object.entries(frame.limits ?? {})) native.limit(Number(resource), most);
    isTypeScript = frame.language === 'typescript';
    startIn(frame.cwd, frame.env);
  } catch (error) {
    const place = error.syscall === 'chdir' ? { step: 'change_directory', errno: -error.errno } : {};
    send({ type: 'failed', ...place, reason: `the context could not start in ${frame.cwd}: ${error.message}` });
    process.reallyExit(1);
  }
  send({ type: 'ready', pid: process.pid });
  if (frame.prime) rehearse([rehearseCells, ...rehearsedRuns, ...(isTypeScript ? typeScriptRehearsal() : [])]);
}

const rehearsedRuns = ['1 + 1', '({ a: [1, "x"], m: new Map() })', 'console.log(""); await 1'].flatMap((source) =>
  Array(6).fill(() => rehearseRun(source)));

/** What is left to be warmed up, one step in each turn of the loop; a frame that comes ends it. */
let rehearsal = null;

function rehearse([step, ...rest]) {
  if (step === undefined) return;
  rehearsal = setImmediate(() => {
    step();
    rehearse(rest);
  });
}

function endRehearsal() {
  clearImmediate(rehearsal);
}

/**
 * Runs a cell that leaves nothing behind, from the text of its frame to that of its answer, but for
 * the pipes and the sending: V8 has compiled that way then before the first cell goes it. It is over
 * when this turn of the loop is, so that no frame can come in between.
 */
function rehearseRun(source) {
  const { code } = JSON.parse(Buffer.from(JSON.stringify({ code: source })).toString());
  isRehearsing = true;
  run = { id: '0', settled: false, error: null, interrupted: false, before: native.usage() };
  watchTimers();
  evaluate(code, 0);
}

/** Compiles what cells of each kind need; whoever waits in a pool has the time for it. */
function rehearseCells() {
  const cells = [
    '1 + 1',
    'const x = await 1; ({a: [x]})',
    'class A {}; let y = () => import("node:fs"); y',
    'import { join } from "node:path"; for (const x of [join]) { x("a", "b") }',
    'no such syntax',
  ];
  for (const source of cells) rewriteCell(source);
  new Script('1 + 1', { filename: 'cell-0.js', importModuleDynamically: USE_MAIN_CONTEXT_DEFAULT_LOADER }).runInThisContext();
  encodeFrame({ type: 'result', ...describeValue({ a: [1, 'x'], b: new Map() }) });
  describeError(new Error('x'));
}

Error.prepareStackTrace = prepareStackTrace;
arrangeStreams(native.write);
arrangeGlobals({ display: makeDisplay(emit) }, { isLenient: () => isTypeScript });
process.on('uncaughtException', (error) => {
  if (process.listenerCount('uncaughtException') === 1) onUncaught(error);
});
process.on('unhandledRejection', (error) => {
  if (process.listenerCount('unhandledRejection') === 1) onUncaught(error);
});
subscribe('net.server.socket', ({ socket }) => { socket.unref(); });
process.argv.splice(1);
process.execArgv.splice(0);
native.start(3, 4, onFrame, onInterrupt, onTurn);
