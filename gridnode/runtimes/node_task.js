// What the Node runtime serves: the handlers of a task file, and the errors they end with.
'use strict';

const path = require('node:path');
const { pathToFileURL } = require('node:url');
const { offerToImport } = require('./node_grid.js')._runtime;
const { isGenerator } = require('./node_stream.js');

const MAX_MESSAGE = 2000, MAX_TRACE = 8192;
const MAX_HANDLERS = 128;
const AsyncFunction = (async () => {}).constructor;

/** An error Reply: a code of gridnode/errors.py, a message, and the user's part of the stack. */
class Fault extends Error {
  constructor(code, message, trace) {
    super(message);
    this.code = code;
    this.trace = trace;
  }

  toJSON() {
    const body = { code: this.code, message: this.message.slice(0, MAX_MESSAGE) };
    return this.trace ? { ...body, trace: this.trace.slice(0, MAX_TRACE) } : body;
  }
}

/** A Map of task name to (event, context) => Promise; Fault instance_failed with the user's stack. */
async function load(root, file, task) {
  let exported;
  try {
    exported = await importFile(path.join(root, file));
  } catch (error) {
    throw new Fault('instance_failed', `${summary(error)} (${placeOf(error, root, file)})`, traceOf(error));
  }
  const found = findHandlers(exported, task);
  if (found.size < 1 || found.size > MAX_HANDLERS) {
    throw new Fault('instance_failed', `${file} exports ${found.size} functions; 1 to ${MAX_HANDLERS} can be served`);
  }
  return found;
}

async function importFile(file) {
  if (!file.endsWith('.mjs')) {
    try {
      return require(file);
    } catch (error) {
      if (!isModule(error)) throw error;
    }
  }
  offerToImport();
  return import(pathToFileURL(file).href);
}

/** Whether the file is a module that has to be imported: because of what it is, or for the sake of "grid". */
function isModule(error) {
  if (error?.code === 'ERR_REQUIRE_ESM' || error?.code === 'ERR_REQUIRE_ASYNC_MODULE') return true;
  return error?.code === 'ERR_MODULE_NOT_FOUND' && /package 'grid'/.test(error.message);
}

/**
 * What the file exports: the default function under the bare task name, the others as `task.name`; one that is the
 * default for being alone under both.
 */
function findHandlers(exported, task) {
  const functions = new Map();
  const holder = exported !== null && ['object', 'function'].includes(typeof exported) ? exported : {};
  for (const [name, value] of Object.entries(holder)) {
    if (isHandler(value) && !name.startsWith('_')) functions.set(name, value);
  }
  const stem = task.slice(task.lastIndexOf('.') + 1);
  const chosen = ['default', 'handler', stem].find((name) => functions.has(name));
  const found = new Map(isHandler(exported) ? [[task, adapt(exported)]] : []);
  for (const [name, value] of functions) {
    found.set(name === chosen && !found.has(task) ? task : `${task}.${name}`, adapt(value));
    if (functions.size === 1 && !found.has(task)) found.set(task, adapt(value));
  }
  return found;
}

function isHandler(value) {
  return typeof value === 'function' && !/^class\b/.test(Function.prototype.toString.call(value));
}

/** (event, context) => Promise of what the handler returns, promises, or passes to its callback: whichever is first. */
function adapt(handler) {
  const isAsync = handler instanceof AsyncFunction, isShort = handler.length === 2;
  const awaitsCallback = !isGenerator(handler) && (isShort ? !takesContext(handler) : handler.length > 2 && !isAsync);
  return (event, context) => new Promise((resolve, reject) => {
    const callback = (error, result) => (error ? reject(error) : resolve(result));
    const result = isShort && awaitsCallback ? handler(event, callback) : handler(event, context, callback);
    if (!awaitsCallback) resolve(result);
    else if (typeof result?.then === 'function') result.then((value) => value !== undefined && resolve(value), reject);
  });
}

/** Whether the second of two parameters takes the context: by its name, for lack of anything better. */
function takesContext(handler) {
  const list = /\(([^]*?)\)/.exec(Function.prototype.toString.call(handler))?.[1] ?? '';
  const names = list.replace(/\{[^}]*\}|\[[^\]]*\]|\/\*[^]*?\*\//g, '').split(',');
  const second = names[1]?.trim() ?? '';
  if (handler instanceof AsyncFunction) return !/^(cb|callback|done|next)$/i.test(second);
  return /^_?(context|ctx)$/i.test(second);
}

function raised(error) {
  return new Fault('task_raised', summary(error), traceOf(error));
}

function summary(error) {
  try {
    if (!(error instanceof Error)) return typeof error === 'string' ? error : `thrown: ${JSON.stringify(error)}`;
    return error.message ? `${error.name}: ${error.message}` : `${error.name}`;
  } catch {
    return '(an error without text)';
  }
}

/** The stack without the runtime's own frames, innermost first, as Node prints it. */
function traceOf(error) {
  try {
    const lines = error.stack.split('\n');
    return lines.filter((line) => !line.includes(__dirname) && !line.includes('node:internal')).join('\n');
  } catch {
    return undefined;
  }
}

function placeOf(error, root, file) {
  try {
    for (const line of String(error.stack).split('\n')) {
      const at = line.indexOf(`${root}/`);
      const found = at < 0 ? null : /^([^:]+):(\d+)/.exec(line.slice(at + root.length + 1));
      if (found) return `${found[1]} line ${found[2]}`;
    }
  } catch { /* an error whose stack throws has no place */ }
  return file;
}

module.exports = { Fault, load, raised, summary };
