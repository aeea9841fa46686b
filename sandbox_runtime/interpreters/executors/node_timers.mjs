// Timers: those that a run has set are known, so that an interrupt can end them.
//
// `clearTimeout` of Node's own is enough for callbacks; who awaits a timer of `timers/promises` is
// told by an AbortError, so that `finally` blocks run.

import { createRequire, syncBuiltinESMExports } from 'node:module';
import { promisify } from 'node:util';

const require = createRequire(import.meta.url);
const timers = require('node:timers');
const promises = require('node:timers/promises');
const { setTimeout, setInterval, setImmediate, clearTimeout, clearImmediate } = timers;
const { any } = AbortSignal;
const FEW = 1000;

let watched = new Set();
let most = FEW;
let ending = new AbortController();

/** Forgets the timers of earlier runs; from here on they are another run's. */
export function watchTimers() {
  watched = new Set();
  most = FEW;
  if (ending.signal.aborted) ending = new AbortController();
}

/** Ends the timers of this run. */
export function endTimers() {
  for (const timer of watched) {
    if (timer.constructor.name === 'Immediate') clearImmediate(timer);
    else clearTimeout(timer);
  }
  watched.clear();
  ending.abort();
}

function watch(timer) {
  watched.add(timer);
  if (watched.size > most) {
    for (const one of watched) {
      if (one._destroyed) watched.delete(one);
    }
    most = 2 * watched.size + FEW;
  }
  return timer;
}

const endable = (options) => ({
  ...options,
  signal: options?.signal ? any.call(AbortSignal, [options.signal, ending.signal]) : ending.signal,
});

const awaited = {
  setTimeout: promises.setTimeout,
  setImmediate: promises.setImmediate,
  setInterval: promises.setInterval,
};

const replaced = {
  setTimeout: function setTimeout_(...args) { return watch(setTimeout(...args)); },
  setInterval: function setInterval_(...args) { return watch(setInterval(...args)); },
  setImmediate: function setImmediate_(...args) { return watch(setImmediate(...args)); },
};

promises.setTimeout = (delay, value, options) => awaited.setTimeout(delay, value, endable(options));
promises.setImmediate = (value, options) => awaited.setImmediate(value, endable(options));
promises.setInterval = (delay, value, options) => awaited.setInterval(delay, value, endable(options));
for (const [name, wrapper] of Object.entries(replaced)) {
  Object.defineProperty(wrapper, 'name', { value: name });
  const custom = promises[name];
  if (name !== 'setInterval') Object.defineProperty(wrapper, promisify.custom, { value: custom, enumerable: true });
  timers[name] = wrapper;
  Object.defineProperty(globalThis, name, { value: wrapper, writable: true, configurable: true, enumerable: true });
  Object.defineProperty(promises[name], 'name', { value: name });
}
syncBuiltinESMExports();
