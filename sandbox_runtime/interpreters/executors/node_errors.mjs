// Errors: as Node shows them, at the lines that the user wrote, without our own frames.

import { inspect } from 'node:util';

import { originalColumn } from './node_cells.mjs';

const OURS = new URL('.', import.meta.url).href;
const CELL = /\bcell-(\d+)\.[jt]s\b/;
const PLACE = /\bcell-(\d+)\.[jt]s:(\d+):/;
const LOCATION = /\bcell-(\d+)\.[jt]s:(\d+):(\d+)/g;
const MOST_CELLS = 2000;
const MOST_LINE = 1000;
/** How much of an error's message is sent, and of each line of its traceback. */
const MOST_TEXT = 64 * 1024;
const MOST_LINES = 2000;

/** What is known of a cell: its text, and how places in what V8 ran map back to it. */
const cells = new Map();

export function rememberCell(number, cell) {
  cells.set(number, cell);
  if (cells.size > MOST_CELLS) cells.delete(cells.keys().next().value);
}

/** Where a place of what V8 ran is in what the user wrote; lines and columns count from 1. */
export function originalPlace(number, line, column) {
  const cell = cells.get(number);
  if (cell === undefined) return { line, column };
  let place = { line, column: originalColumn(cell.edits, line, column - 1) + 1 };
  for (const map of cell.maps) {
    const entry = map.findEntry(place.line - 1, place.column - 1);
    if (entry.originalLine === undefined) break;
    place = { line: entry.originalLine + 1, column: entry.originalColumn + 1 };
  }
  return place;
}

/** Whether a frame is of what was put around a cell, and so behind its last line. */
function isAround(text) {
  const [, number, line] = text.match(PLACE) ?? [];
  const cell = cells.get(Number(number));
  return cell !== undefined && cell.maps.length === 0 && Number(line) > cell.source.split('\n').length;
}

function withOriginalPlaces(text) {
  return text.replace(LOCATION, (whole, number, line, column) => {
    const place = originalPlace(Number(number), Number(line), Number(column));
    return `${whole.slice(0, whole.indexOf(':'))}:${place.line}:${place.column}`;
  });
}

/** To be `Error.prepareStackTrace`: so `error.stack` itself is in the user's terms. */
export function prepareStackTrace(error, sites) {
  let header;
  try {
    header = Error.prototype.toString.call(error);
  } catch {
    header = 'Error';
  }
  let lines = [];
  let end = 0;
  for (const site of sites) {
    const file = site.getFileName() ?? site.getEvalOrigin?.() ?? '';
    if (file.startsWith(OURS) || file === 'node:inspector') continue;
    const text = String(site);
    if (isAround(text)) continue;
    lines.push(`\n    at ${withOriginalPlaces(text)}`);
    if (CELL.test(lines.at(-1))) end = lines.length;
  }
  // What called a cell's outermost function is Node's business.
  if (end > 0) lines = lines.slice(0, end);
  return header + lines.join('');
}

/**
 * An error as a frame.
 *
 * @param thrown What was thrown, an Error or not.
 * @param {string | null} excerpt For errors of syntax: where it is, in text.
 */
export function describeError(thrown, excerpt = null) {
  let shown;
  try {
    shown = inspect(thrown);
  } catch {
    shown = '[an error that cannot be shown]';
  }
  if (!isError(thrown)) {
    return asFrame('Uncaught', shown, [`Uncaught ${shown}`]);
  }
  const traceback = excerpt === null ? shown.split('\n') : [...excerpt.split('\n'), '', String(thrown)];
  return asFrame(textOf(thrown, 'name') || 'Error', textOf(thrown, 'message'), traceback);
}

function asFrame(name, value, lines) {
  let traceback = lines.map(shortened);
  if (traceback.length > MOST_LINES) {
    const leftOut = `  [${traceback.length - MOST_LINES} lines left out]`;
    traceback = [...traceback.slice(0, MOST_LINES / 2), leftOut, ...traceback.slice(-MOST_LINES / 2)];
  }
  return { type: 'error', name: shortened(name), value: shortened(value), traceback };
}

function shortened(text) {
  if (text.length <= MOST_TEXT) return text;
  return `${text.slice(0, MOST_TEXT)} [${text.length - MOST_TEXT} characters left out]`;
}

function isError(thrown) {
  return thrown instanceof Error || Object.prototype.toString.call(thrown) === '[object Error]';
}

function textOf(thrown, key) {
  try {
    return String(thrown[key]);
  } catch {
    return '';
  }
}

/** Where an error of syntax is, in text: the place, the line, and a caret below it; or null. */
export function excerptOf(error) {
  if (typeof error.excerpt === 'string') return error.excerpt;
  const found = /^cell-(\d+)\.[jt]s:(\d+)\n(.*)\n( *)/.exec(error.stack ?? '');
  if (found === null) return null;
  const cell = cells.get(Number(found[1]));
  if (cell === undefined) return null;
  const place = originalPlace(Number(found[1]), Number(found[2]), found[4].length + 1);
  const line = (cell.source.split('\n')[place.line - 1] ?? '').slice(0, MOST_LINE);
  const before = line.slice(0, place.column - 1).replace(/[^\t]/g, ' ');
  return `${cell.fileName}:${place.line}:${place.column}\n${line}\n${before}^`;
}
