// Cells: what has to change in a cell's text so that V8 runs it as one piece of a long session.
//
// V8 runs a cell as a script. Three things a script does not do, and they are put right here, by a
// parser and without moving any line. A name may be declared again, also as something else: `let`,
// `const` and `class` at the top become `var`. Static `import` works: it becomes a call. And `await`
// works at the top: such a cell becomes an async function whose `var`s lie outside of it.
//
// What the parser does not understand is left as it is: V8 runs it, or says what is wrong with it.

import { childrenOf, collectNames, constantsIn, findAssignments } from './node_constants.mjs';
import { parse } from './vendor/acorn.mjs';

/** The global function that static imports become calls of. */
export const IMPORT = '__import';

const OPTIONS = {
  ecmaVersion: 'latest',
  sourceType: 'script',
  allowAwaitOutsideFunction: true,
  allowImportExportEverywhere: true,
  allowHashBang: true,
};

/** What has `await`s and `var`s of its own. */
const IS_FUNCTION = /^(?:Function|Arrow|PropertyDefinition|StaticBlock)/;

/** What may declare, assign, await or import something, or needs a second look: by letters, by signs. */
const WORDS = /\b(?:let|const|var|using|class|function|import|export|await|for)\b/;
const SIGNS = /[={}<`#@\\]|\+\+|--/;

/**
 * Whether a cell stays as it is if it is JavaScript at all. Most that are not are so at this look;
 * to parse the others costs as much as to run them.
 */
export function isPlain(source) {
  return !SIGNS.test(source) && !WORDS.test(source);
}

let last = { source: null, program: null };

/** Parses a cell; null if it is no JavaScript that the parser knows. */
export function parseCell(source) {
  if (last.source === source) return last.program;
  let program = null;
  try {
    program = parse(source, OPTIONS);
  } catch { /* V8 says what is wrong with it */ }
  last = { source, program };
  return program;
}

/** Forgets what was parsed last, which may be large. */
export function forgetCell() {
  last = { source: null, program: null };
}

/**
 * Rewrites a cell.
 *
 * @returns {{code: string, edits: object[], declared: string[], constant: string[]}} What V8 is to
 *   run, what was changed in it, the names that it declares at the top, and which of them are
 *   constant. The code's value is the cell's, or a promise of it.
 */
export function rewriteCell(source) {
  const object = parseObject(source);
  if (object !== null) return object;
  const program = parseCell(source);
  if (program === null) return { code: source, edits: [], declared: [], constant: [] };
  const cell = new Cell(source);
  cell.isAsync = hasAwait(source, program);
  program.body.forEach((node) => cell.statement(node));
  if (source.includes('import.meta')) cell.replaceMeta(program);
  if (cell.isAsync) cell.wrap(program);
  cell.guardConstants(program);
  return cell.finish();
}

/** A cell that is nothing but `{…}` is an object if it can be one, as in Node's own REPL. */
function parseObject(source) {
  const text = source.trim();
  if (!text.startsWith('{') || !text.endsWith('}')) return null;
  const program = parseCell(`(${source}\n)`);
  if (program?.body.length !== 1 || program.body[0].expression?.type !== 'ObjectExpression') return null;
  const cell = new Cell(source);
  cell.isAsync = hasAwait(source, program);
  cell.insert(0, cell.isAsync ? '(async () => (' : '(');
  cell.insert(source.length, cell.isAsync ? '\n))()' : '\n)');
  return cell.finish();
}

/** Whether anything is awaited at the top, outside of functions. */
function hasAwait(source, program) {
  if (!/\b(?:await|import|export)\b/.test(source)) return false;
  let found = false;
  walk(program, (node) => {
    if (IS_FUNCTION.test(node.type)) return false;
    found ||= node.type === 'AwaitExpression' || node.type === 'ImportDeclaration' || node.await === true
      || (/^Export(Named|All)Declaration$/.test(node.type) && node.source !== null);
    return !found;
  });
  return found;
}

class Cell {
  constructor(source) {
    this.source = source;
    this.edits = [];
    this.declared = [];
    this.constant = [];
    this.isAsync = false;
  }

  insert(at, inserted, { isFirst = false } = {}) {
    this.replace(at, at, inserted);
    if (isFirst) this.edits.unshift(this.edits.pop());
  }

  /** Line breaks of what is replaced are kept, so that no line moves. */
  replace(start, end, inserted) {
    const breaks = this.source.slice(start, end).match(/\n/g)?.length ?? 0;
    this.edits.push({ start, end, length: inserted.length, inserted: inserted + '\n'.repeat(breaks) });
  }

  statement(node) {
    switch (node.type) {
      case 'VariableDeclaration': return this.variables(node);
      case 'FunctionDeclaration': return void this.declared.push(node.id.name);
      case 'ClassDeclaration': return this.classDeclaration(node);
      case 'ImportDeclaration': return this.importDeclaration(node);
      case 'ExportNamedDeclaration': return this.exportNamed(node);
      case 'ExportDefaultDeclaration': return this.exportDefault(node);
      case 'ExportAllDeclaration': return this.replaceNode(node, `await ${importCall(node)};`);
    }
  }

  variables(node) {
    const isLexical = node.kind === 'let' || node.kind === 'const';
    if (!isLexical && node.kind !== 'var') return; // `using` cannot be made a `var`
    const names = this.declare(node);
    if (node.kind === 'const') this.constant.push(...names);
    for (const one of node.declarations) {
      // `let x` is undefined each time, where `var x` would keep what an earlier cell has set.
      if (one.init === null && isLexical) this.insert(one.id.end, ' = undefined');
    }
    const keyword = [node.start, node.start + node.kind.length];
    if (!this.isAsync) {
      if (isLexical) this.replace(...keyword, 'var'.padEnd(node.kind.length));
      return;
    }
    this.replace(...keyword, ';(');
    this.insertBefore(node, ')');
  }

  /** Where a statement ends, before its semicolon if it has one. */
  insertBefore(node, text) {
    const hasSemicolon = this.source[node.end - 1] === ';';
    const at = hasSemicolon ? node.end - 1 : node.end;
    this.insert(at, hasSemicolon ? text : `${text};`);
  }

  /** A `var` within a block or a loop of an async cell is the cell's as well. */
  innerVariables(node, parent) {
    this.declare(node);
    const isHead = /^For/.test(parent.type) && parent.body !== node;
    const keyword = [node.start, node.start + 'var'.length];
    if (isHead) return this.replace(...keyword, '   ');
    this.replace(...keyword, ';(');
    this.insertBefore(node, ')');
  }

  classDeclaration(node) {
    this.declared.push(node.id.name);
    this.insert(node.start, `${this.isAsync ? '' : 'var '}${node.id.name} = `);
    this.insert(node.end, ';');
  }

  importDeclaration(node) {
    const call = `await ${importCall(node)}`;
    const named = node.specifiers.filter((one) => one.type !== 'ImportNamespaceSpecifier');
    const whole = node.specifiers.find((one) => one.type === 'ImportNamespaceSpecifier');
    node.specifiers.forEach((one) => this.declared.push(one.local.name));
    const wanted = named.map((one) => [importedName(one), one.local.name]);
    const pattern = wanted.map(([name, local]) => `${JSON.stringify(name)}: ${local}`).join(', ');
    const names = JSON.stringify(wanted.map(([name]) => name));
    let text = `${call};`;
    if (whole) {
      text = `${whole.local.name} = ${call};`;
      if (named.length) text += ` ({${pattern}} = ${whole.local.name});`;
    } else if (named.length) {
      text = `;({${pattern}} = await ${importCall(node, names)});`;
    }
    this.replaceNode(node, text);
  }

  exportNamed(node) {
    if (node.declaration) {
      this.replace(node.start, node.declaration.start, '');
      this.statement(node.declaration);
    } else {
      this.replaceNode(node, node.source ? `await ${importCall(node)};` : ';');
    }
  }

  exportDefault(node) {
    this.replace(node.start, node.declaration.start, '');
    if (!this.isExpression(node.declaration)) this.statement(node.declaration);
  }

  /** What `export default` stands before: a declaration has a name. */
  isExpression(node) {
    return !(/^(Function|Class)Declaration$/.test(node.type) && node.id);
  }

  replaceMeta(program) {
    walk(program, (node) => {
      if (node.type === 'MetaProperty' && node.meta.name === 'import') this.replaceNode(node, `${IMPORT}.meta`);
      return true;
    });
  }

  /** Makes an async function of the cell; the names that it declares are global all the same. */
  wrap(program) {
    walk(program, (node, parent) => {
      if (IS_FUNCTION.test(node.type)) return false;
      const isInner = parent !== null && parent.type !== 'Program' && !/^Export/.test(parent.type);
      if (node.type === 'VariableDeclaration' && node.kind === 'var' && isInner) this.innerVariables(node, parent);
      return true;
    });
    const functions = program.body
      .map((node) => node.declaration ?? node)
      .filter((node) => node.type === 'FunctionDeclaration' && node.id)
      .map((node) => `globalThis.${node.id.name} = ${node.id.name};`);
    const last = program.body.at(-1);
    const value = last?.type === 'ExportDefaultDeclaration' ? last.declaration : last;
    if (last?.type === 'ExpressionStatement' || (value !== last && this.isExpression(value))) {
      this.insert(value.start, 'return (');
      this.insertBefore(value, ')');
    }
    const names = [...new Set(this.declared)];
    const head = `${names.length ? `var ${names.join(', ')}; ` : ''}(async () => {${functions.join('')} `;
    // Behind `'use strict'` and its like, which have to come first.
    const directives = program.body.filter((node) => node.directive !== undefined).map((node) => node.raw ?? this.source.slice(node.start, node.end));
    this.insert(0, directives.length ? head.replace('{', `{${directives.join(';')};`) : head, { isFirst: true });
    this.insert(this.source.length, '\n})()');
  }

  replaceNode(node, text) {
    this.replace(node.start, node.end, text);
  }

  declare(node) {
    const names = new Set();
    node.declarations.forEach((one) => collectNames(one.id, names));
    this.declared.push(...names);
    return names;
  }

  /** What assigns to a constant assigns to what refuses it instead. */
  guardConstants(program) {
    const names = constantsIn(this.declared, this.constant);
    for (const { node, isShorthand } of findAssignments(program, names)) {
      const target = `${IMPORT}.constant`;
      this.replaceNode(node, isShorthand ? `${node.name}: ${target}` : target);
    }
  }

  /** On which line and in which column each edit is, in the order of the text. */
  places(edits) {
    let [line, start] = [1, 0];
    return edits.map((edit) => {
      for (let next; (next = this.source.indexOf('\n', start)) >= 0 && next < edit.start; line += 1) start = next + 1;
      return { line, column: edit.start - start, removed: edit.end - edit.start, length: edit.length };
    });
  }

  finish() {
    // Stable, so insertions at one place stay in the order in which they were asked for.
    const edits = this.edits.sort((one, other) => one.start - other.start);
    let code = '';
    let at = 0;
    for (const edit of edits) {
      code += this.source.slice(at, edit.start) + edit.inserted;
      at = edit.end;
    }
    code += this.source.slice(at);
    return { code, edits: this.places(edits), declared: this.declared, constant: this.constant };
  }
}

function importedName(specifier) {
  if (specifier.type === 'ImportDefaultSpecifier') return 'default';
  return specifier.imported.name ?? specifier.imported.value;
}

function importCall(node, names = 'undefined') {
  const attributes = (node.attributes ?? []).map(
    ({ key, value }) => `${JSON.stringify(key.name ?? key.value)}: ${JSON.stringify(value.value)}`,
  );
  const options = attributes.length ? `{with: {${attributes.join(', ')}}}` : 'undefined';
  return `${IMPORT}(${JSON.stringify(node.source.value)}, ${options}, ${names})`;
}

/** Visits nodes from the outside in; below one only if `visit` says so. */
function walk(root, visit) {
  const left = [[root, null]];
  while (left.length) {
    const [node, parent] = left.pop();
    if (!visit(node, parent)) continue;
    for (const child of childrenOf(node)) left.push([child, node]);
  }
}

/** The column of a cell's text that a column of its rewritten text came from; both from 0. */
export function originalColumn(edits, line, column) {
  let shift = 0;
  for (const edit of edits) {
    if (edit.line !== line) continue;
    const start = edit.column + shift;
    if (column < start) break;
    if (column < start + edit.length) return edit.column;
    shift += edit.length - edit.removed;
  }
  return column - shift;
}
