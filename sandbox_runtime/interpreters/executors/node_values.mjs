// Values: what a value looks like as text and as JSON, and `display`, which shows more than that.
//
// JSON that leaves something out says so: `metadata["application/json"].converted` names what had
// no equal there and became something near it, such as a Map or a cycle.

import { inspect } from 'node:util';

const MIB = 1024 * 1024;
/** How much of a result's plain text is sent; the rest is cut off, and its size is told. */
const MOST_TEXT_BYTES = MIB;
/** The largest other format: half of an image is no use, so a larger one is left out whole. */
const MOST_FORMAT_BYTES = 16 * MIB;
/** The largest sum of a result's formats; those that come first in it are sent. */
const MOST_RESULT_BYTES = 24 * MIB;
/** The largest sum of a result's formats that are no text, and how many values these may have. */
const MOST_JSON_BYTES = 4 * MIB;
const MOST_VALUES = 50_000;
/** What is within all limits, whatever its characters are. */
const SHORT_TEXT = 1000;
const MOST_NODES = 1_000_000;
const MOST_DEPTH = 50;
/** By which other runtimes' objects say what they look like. */
const SHOWN_BY = Symbol.for('Jupyter.display');

const { getPrototypeOf } = Object;
const { isArray } = Array;
const { stringify } = JSON;

class TooBig extends Error {}

/**
 * All formats of a value, by MIME type; a promise of them if the value says itself what it looks
 * like, and takes its time.
 *
 * @returns {{data: object, metadata: object} | Promise<{data: object, metadata: object}>}
 */
export function describeValue(value) {
  const simple = simpleText(value);
  if (simple !== null) return { data: { 'text/plain': simple }, metadata: {} };
  const own = ownBundle(value);
  if (own instanceof Promise) return own.then((bundle) => ({ data: { ...bundle }, metadata: {} }));
  if (own !== null) return { data: { ...own }, metadata: {} };
  const data = {};
  const metadata = {};
  data['text/plain'] = inspectSafely(value);
  if (typeof value === 'object' && value !== null) addJson(value, data, metadata);
  return { data, metadata };
}

/** What `inspect` says of a number or a truth, unless it was told to say it otherwise. */
function simpleText(value) {
  if (typeof value !== 'number' && typeof value !== 'boolean') return null;
  const { colors, numericSeparator } = inspect.defaultOptions;
  if (colors || numericSeparator) return null;
  return Object.is(value, -0) ? '-0' : `${value}`;
}

function ownBundle(value) {
  if (value === null || (typeof value !== 'object' && typeof value !== 'function')) return null;
  if (typeof value[SHOWN_BY] !== 'function') return null;
  const bundle = value[SHOWN_BY]();
  return typeof bundle === 'object' ? bundle : null;
}

function inspectSafely(value) {
  try {
    return inspect(value, { maxStringLength: 2 * MOST_TEXT_BYTES });
  } catch (error) {
    return `[a value that cannot be shown: ${String(error)}]`;
  }
}

function addJson(value, data, metadata, mime = 'application/json') {
  const state = { converted: new Set(), nodes: 0, characters: 0, path: new Set() };
  try {
    const json = toJson(value, state, 0);
    if (json === undefined) return;
    data[mime] = json;
    if (state.converted.size) metadata[mime] = { converted: [...state.converted] };
  } catch (error) {
    const reason = error instanceof TooBig || error instanceof RangeError ? 'too big' : String(error);
    metadata[mime] = { omitted: reason };
  }
}

function count(state, characters) {
  state.characters += characters;
  if (++state.nodes > MOST_NODES || state.characters > MOST_RESULT_BYTES) throw new TooBig();
}

function toJson(value, state, depth) {
  switch (typeof value) {
    case 'string':
      count(state, value.length);
      return value;
    case 'boolean':
      count(state, 5);
      return value;
    case 'number':
      count(state, 20);
      if (Number.isFinite(value)) return value;
      state.converted.add('NaN or Infinity');
      return String(value);
    case 'bigint':
      state.converted.add('BigInt');
      return toJson(value.toString(), state, depth);
    case 'object':
      if (value === null) return null;
      break;
    default: // undefined, a function, a symbol
      state.converted.add(typeof value);
      return undefined;
  }
  if (state.path.has(value)) {
    state.converted.add('cycle');
    return '[Circular]';
  }
  if (depth > MOST_DEPTH) throw new TooBig();
  count(state, 2);
  state.path.add(value);
  try {
    return objectToJson(value, state, depth + 1);
  } finally {
    state.path.delete(value);
  }
}

function objectToJson(value, state, depth) {
  if (isArray(value)) return listToJson(value, state, depth);
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) {
    state.converted.add(nameOf(value));
    return listToJson(value, state, depth);
  }
  if (value instanceof Map) {
    state.converted.add('Map');
    const entries = [...value];
    if (!entries.every(([key]) => typeof key === 'string')) return listToJson(entries, state, depth);
    return entriesToJson(entries, state, depth);
  }
  if (value instanceof Set) {
    state.converted.add('Set');
    return listToJson([...value], state, depth);
  }
  if (value instanceof Error) {
    state.converted.add(nameOf(value));
    const facts = { name: value.name, message: value.message, ...value };
    if (value.cause !== undefined) facts.cause = value.cause;
    return entriesToJson(Object.entries(facts), state, depth);
  }
  if (value instanceof RegExp) {
    state.converted.add('RegExp');
    return String(value);
  }
  if (typeof value.toJSON === 'function') return toJson(value.toJSON(), state, depth);
  if (value instanceof Number || value instanceof String || value instanceof Boolean) {
    return toJson(value.valueOf(), state, depth);
  }
  const prototype = getPrototypeOf(value);
  if (prototype !== null && getPrototypeOf(prototype) !== null) state.converted.add(nameOf(value));
  else if (prototype !== null && nameOf(value) !== 'Object') state.converted.add(nameOf(value));
  return entriesToJson(Object.entries(value), state, depth);
}

function nameOf(value) {
  const name = value.constructor?.name;
  return typeof name === 'string' && name ? name : 'object without a class';
}

function listToJson(list, state, depth) {
  if (list.length > MOST_NODES) throw new TooBig();
  return Array.from(list, (one) => toJson(one, state, depth) ?? null);
}

function entriesToJson(entries, state, depth) {
  const object = {};
  for (const [key, value] of entries) {
    count(state, key.length);
    const json = toJson(value, state, depth);
    if (json === undefined) continue;
    // By definition, since assigning to `__proto__` would do something else.
    Object.defineProperty(object, key, { value: json, enumerable: true, configurable: true, writable: true });
  }
  return object;
}

/** How many colons, commas and opening brackets there are. */
function countStructure(json) {
  let count = 0;
  for (let at = 0; at < json.length; at++) {
    const code = json.charCodeAt(at);
    if (code === 44 || code === 58 || code === 91 || code === 123) count++;
  }
  return count;
}

/** What may be sent of a result's formats, and the full sizes of what is cut or left out. */
export function capFormats(data) {
  const { 'text/plain': text, ...others } = data;
  if (typeof text === 'string' && text.length <= SHORT_TEXT && Object.keys(others).length === 0) return { data, capped: {} };
  const kept = {};
  const capped = {};
  let room = MOST_RESULT_BYTES;
  let jsonRoom = MOST_JSON_BYTES;
  let valuesRoom = MOST_VALUES;
  for (const [mime, value] of Object.entries(data)) {
    const isText = mime === 'text/plain';
    const limit = isText ? MOST_TEXT_BYTES : MOST_FORMAT_BYTES;
    const json = typeof value === 'string' ? null : stringify(value) ?? '';
    const size = Buffer.byteLength(json ?? value);
    let sendable = value;
    if (size > limit) {
      capped[mime] = size;
      if (!isText || json !== null) continue;
      sendable = Buffer.from(value).subarray(0, limit).toString().replace(/\ufffd$/, '');
    }
    // Escapes make some texts several times as long.
    const sent = Buffer.byteLength(json ?? stringify(sendable));
    const values = json === null ? 0 : 1 + countStructure(json);
    if (sent > room || (json !== null && (sent > jsonRoom || values > valuesRoom))) {
      capped[mime] = size;
      continue;
    }
    if (json !== null) {
      jsonRoom -= sent;
      valuesRoom -= values;
    }
    room -= sent;
    kept[mime] = sendable;
  }
  return { data: kept, capped };
}

/** A frame as JSON text; half a surrogate pair, which UTF-8 does not know, becomes U+FFFD. */
export function encodeFrame(frame) {
  const text = stringify(frame);
  if (!/\\ud[89a-f]/i.test(text)) return text;
  return stringify(frame, (_, value) => {
    if (typeof value === 'string') return value.toWellFormed();
    if (typeof value !== 'object' || value === null || isArray(value)) return value;
    if (Object.keys(value).every((key) => key.isWellFormed())) return value;
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key.toWellFormed(), one]));
  });
}

const asText = (value) => (typeof value === 'string' ? value : String(value));
const asBase64 = (value) => {
  if (typeof value === 'string') return value.replace(/^data:[^,]*;base64,/, '');
  return Buffer.from(value.buffer ?? value, value.byteOffset, value.byteLength).toString('base64');
};

const FORMATS = {
  text: ['text/plain', asText],
  html: ['text/html', asText],
  markdown: ['text/markdown', asText],
  svg: ['image/svg+xml', asText],
  latex: ['text/latex', asText],
  javascript: ['application/javascript', asText],
  png: ['image/png', asBase64],
  jpeg: ['image/jpeg', asBase64],
  json: ['application/json', (value) => value],
};

/**
 * The global function `display`, with one more for each format: `display.html('<b>x</b>')`.
 *
 * @param show Sends a frame of what is shown, or of what is asked, e.g. to forget it.
 */
export function makeDisplay(show) {
  const place = (options) => (options?.id === undefined ? {} : { display_id: asText(options.id) });
  const tell = (frame, described) => {
    if (!(described instanceof Promise)) return void show({ ...frame, ...described });
    return described.then((later) => void show({ ...frame, ...later }));
  };
  const display = (value, options) => tell({ type: 'display', ...place(options) }, describeValue(value));
  display.update = (id, value) => {
    return tell({ type: 'update_display', display_id: asText(id) }, describeValue(value));
  };
  display.clear = () => show({ type: 'clear_output' });
  display.bundle = (bundle, options) => {
    const [data, metadata] = [{}, { ...options?.metadata }];
    for (const [mime, value] of Object.entries(bundle)) {
      if (typeof value === 'string') data[mime] = value;
      else addJson(value, data, metadata, mime);
    }
    show({ type: 'display', data, metadata, ...place(options) });
  };
  for (const [name, [mime, convert]] of Object.entries(FORMATS)) {
    display[name] = (value, options) => display.bundle({ [mime]: convert(value) }, options);
  }
  return display;
}
