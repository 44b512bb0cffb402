// What a task file gets by require("grid") or import "grid": other tasks, events, the call it serves, a log.
'use strict';

const { AsyncLocalStorage } = require('node:async_hooks');
const Module = require('node:module');
const { pathToFileURL } = require('node:url');
const { MAX_BODY, OP_INVOKE, OP_PUBLISH, FLAG_ERROR } = require('./node_frames.js');

const MAX_NAME = 255, MAX_DEADLINE = 0xFFFFFFFF;

/** The call that the code running now belongs to: its line to the node, its id on it, its context. */
const served = new AsyncLocalStorage();

/** Why a call of another task gave no result. code: as everywhere in the grid; trace: its stack if it raised. */
class TaskError extends Error {
  constructor(message, { code = 'call', trace, hint } = {}) {
    super(message, trace ? { cause: new RemoteStack(trace) } : undefined);
    this.name = this.constructor.name;
    this.code = code;
    this.trace = trace;
    this.hint = hint;
  }
}

class RemoteStack extends Error {
  constructor(trace) {
    super('raised elsewhere in the grid');
    this.stack = trace;
  }
}

class TaskRaised extends TaskError {}
class TaskCrashed extends TaskError {}
class NodeLost extends TaskError {}
class CallTimeout extends TaskError {}
class TaskNotFound extends TaskError {}
class NoCapacity extends TaskError {}
class Forbidden extends TaskError {}
class BodyTooLarge extends TaskError {}

const KINDS = {
  task_raised: TaskRaised,
  task_crashed: TaskCrashed,
  node_lost: NodeLost,
  timeout: CallTimeout,
  task_not_found: TaskNotFound,
  no_capacity: NoCapacity,
  forbidden: Forbidden,
  body_too_large: BodyTooLarge,
};

function failure(code, message, trace, hint) {
  return new (KINDS[code] ?? TaskError)(message, { code, trace, hint });
}

/**
 * The result of another task, anywhere in the grid; rejects with a TaskError.
 * timeout: milliseconds, else what the task has; never longer than the call being served has left.
 */
async function invoke(task, argument = null, { timeout } = {}) {
  if (timeout !== undefined && !(timeout > 0 && timeout < MAX_DEADLINE)) {
    throw new RangeError(`a timeout of ${timeout} ms makes no sense: more than 0`);
  }
  return ask(OP_INVOKE, task, argument, 'task', timeout === undefined ? 0 : Math.max(1, Math.floor(timeout)));
}

/** Send a value to all who listen to the topic now; to how many that is. */
async function publish(topic, value = null) {
  return ask(OP_PUBLISH, topic, value, 'topic', 0);
}

async function ask(op, name, value, kind, deadlineMs) {
  const call = current();
  const size = typeof name === 'string' ? Buffer.byteLength(name) : 0;
  if (size < 1 || size > MAX_NAME) throw new TypeError(`${JSON.stringify(name)} is no ${kind}'s name`);
  const text = JSON.stringify(value);
  if (text === undefined) throw new TypeError(`a ${typeof value} is not JSON`);
  const body = text === 'null' && op === OP_INVOKE ? '' : text;
  const length = Buffer.byteLength(body);
  if (length > MAX_BODY) {
    throw failure('body_too_large', `${name}: ${length} bytes of JSON, at most ${MAX_BODY} are allowed`);
  }
  const reply = await call.line.ask(op, name, call.callId, body, deadlineMs);
  if (reply === null) throw failure('link_closed', `${name}: the connection to the node was lost during the call`);
  return read(name, reply);
}

function read(name, reply) {
  if (reply.flags & FLAG_ERROR) {
    let told;
    try {
      told = JSON.parse(reply.body);
    } catch { /* said below */ }
    if (typeof told?.code !== 'string') throw failure('call', `${name}: the call failed, and its error cannot be read`);
    throw failure(told.code, String(told.message), told.trace ?? undefined, told.hint ?? undefined);
  }
  try {
    return reply.body ? JSON.parse(reply.body) : null;
  } catch (error) {
    throw failure('body_invalid', `${name}: its result is not JSON: ${error.message}`);
  }
}

function current() {
  const call = served.getStore();
  if (!call) throw new Error('this works only while a call is being served, not while the file is loaded');
  return call;
}

/** The context of the call being served, as handlers get it for their second argument. */
const context = new Proxy({}, {
  get(target, key) {
    const found = typeof key === 'symbol' ? undefined : current().context;
    const value = found?.[key];
    return typeof value === 'function' ? value.bind(found) : value;
  },
  has: (target, key) => key in current().context,
});

const log = console;

module.exports = {
  invoke,
  publish,
  context,
  log,
  TaskError,
  TaskRaised,
  TaskCrashed,
  NodeLost,
  CallTimeout,
  TaskNotFound,
  NoCapacity,
  Forbidden,
  BodyTooLarge,
};

// A project's own module of that name wins: ours is found only where nothing else is.
const HOOK = `
export async function resolve(specifier, context, next) {
  if (specifier !== 'grid') return next(specifier, context);
  try {
    return await next(specifier, context);
  } catch {
    return { url: ${JSON.stringify(pathToFileURL(__filename).href)}, format: 'commonjs', shortCircuit: true };
  }
}`;
let hooked = false;

/** Have require("grid") find this file. */
function offerToRequire() {
  const resolve = Module._resolveFilename;
  Module._resolveFilename = function (request, ...rest) {
    if (request !== 'grid') return resolve.call(this, request, ...rest);
    try {
      return resolve.call(this, request, ...rest);
    } catch {
      return __filename;
    }
  };
}

/** Have import "grid" find it too: a thread of Node's own, so only where a file is an ES module. */
function offerToImport() {
  if (!hooked && Module.register) Module.register(`data:text/javascript,${encodeURIComponent(HOOK)}`);
  hooked = true;
}

Object.defineProperty(module.exports, '_runtime', { value: { served, offerToImport, offerToRequire } });
