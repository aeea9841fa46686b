// Constants: `const` at the top becomes `var`, so that a later cell may declare the name again; what
// assigns to one is found here, and made to fail as it would.
//
// A name that is declared anywhere within a function or a block counts as its own in all of it. That
// is a little more than it is: at worst an assignment that should fail does not.

const IS_FUNCTION = /^(?:Function|Arrow)/;
const IS_SCOPE = /^(?:Function|Arrow|BlockStatement|For|CatchClause|SwitchStatement|StaticBlock|Class)/;

/** The names of constants that earlier cells have declared. */
let constants = new Set();

/** What is constant once a cell with these declarations at its top has run. */
export function declareConstants(declared, constant) {
  constants = constants.difference(new Set(declared)).union(new Set(constant));
}

/** The names that are constant while a cell with these declarations runs. */
export function constantsIn(declared, constant) {
  return constants.difference(new Set(declared)).union(new Set(constant));
}

/**
 * Finds what assigns to constants.
 *
 * @param program The cell, parsed.
 * @param {Set<string>} names Of the constants.
 * @returns {{node: object, isShorthand: boolean}[]} The names where they are assigned to.
 */
export function findAssignments(program, names) {
  const found = [];
  if (names.size) search(program, names, found, true);
  return found;
}

function search(node, names, found, isTop) {
  if (!isTop && IS_SCOPE.test(node.type)) {
    const own = new Set();
    for (const parameter of node.params ?? []) collectNames(parameter, own);
    if (node.param) collectNames(node.param, own);
    if (node.id && !/Declaration$/.test(node.type)) own.add(node.id.name);
    collectDeclared(node, own, true, IS_FUNCTION.test(node.type));
    if (own.size) names = names.difference(own);
    if (!names.size) return;
  }
  if (node.type === 'AssignmentExpression') searchTarget(node.left, names, found);
  else if (node.type === 'UpdateExpression') searchTarget(node.argument, names, found);
  else if (/^For(In|Of)/.test(node.type) && node.left.type !== 'VariableDeclaration') searchTarget(node.left, names, found);
  for (const child of childrenOf(node)) search(child, names, found, false);
}

function searchTarget(target, names, found, isShorthand = false) {
  switch (target?.type) {
    case 'Identifier':
      if (names.has(target.name)) found.push({ node: target, isShorthand });
      return;
    case 'ObjectPattern':
      for (const one of target.properties) searchTarget(one.value ?? one.argument, names, found, one.shorthand === true);
      return;
    case 'ArrayPattern': return target.elements.forEach((one) => searchTarget(one, names, found));
    case 'AssignmentPattern': return searchTarget(target.left, names, found, isShorthand);
    case 'RestElement': return searchTarget(target.argument, names, found);
  }
}

/** The names that are declared within a scope; `var`s of inner blocks are the function's. */
function collectDeclared(scope, own, isTop, isFunction) {
  for (const child of childrenOf(scope)) {
    if (child.type === 'VariableDeclaration') child.declarations.forEach((one) => collectNames(one.id, own));
    else if (/^(Function|Class)Declaration$/.test(child.type) && child.id) own.add(child.id.name);
    if (IS_FUNCTION.test(child.type) || (!isTop && !isFunction && IS_SCOPE.test(child.type))) continue;
    collectDeclared(child, own, false, isFunction);
  }
}

/** The names that a pattern declares. */
export function collectNames(pattern, names) {
  switch (pattern?.type) {
    case 'Identifier': return void names.add(pattern.name);
    case 'ObjectPattern': return pattern.properties.forEach((one) => collectNames(one.value ?? one.argument, names));
    case 'ArrayPattern': return pattern.elements.forEach((one) => collectNames(one, names));
    case 'AssignmentPattern': return collectNames(pattern.left, names);
    case 'RestElement': return collectNames(pattern.argument, names);
  }
}

/** The nodes right below one. */
export function childrenOf(node) {
  const children = [];
  for (const key in node) {
    const child = node[key];
    if (typeof child !== 'object' || child === null) continue;
    for (const one of Array.isArray(child) ? child : [child]) {
      if (typeof one?.type === 'string') children.push(one);
    }
  }
  return children;
}
