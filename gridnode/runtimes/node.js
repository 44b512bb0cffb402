// The Node runtime: serves one task file inside its sandbox. No dependencies, Node 18 and later.
//
// It loads the file, dials the node's socket, says HELLO with the handlers it found, then answers calls until the
// container ends. Calls run side by side on the one event loop, up to GRID_CONCURRENCY of them (64); what comes beyond
// that waits here, in order.
'use strict';

const net = require('node:net');
const frames = require('./node_frames.js');
const { served, offerToRequire } = require('./node_grid.js')._runtime;
const { Fault, load, raised, summary } = require('./node_task.js');

const { Outlet, itemsOf, stop } = require('./node_stream.js');

const { VERSION, HELLO, CALL, REPLY, PART, CANCEL, PING, PONG, CREDIT } = frames;
const { FLAG_ERROR, FLAG_STREAM, OP_INVOKE, MAX_BODY, Inbox, pack, packCall } = frames;
const DIAL_PATIENCE = 30_000, REDIAL_PATIENCE = 600_000, REDIAL_PAUSE = 200, HELLO_GRACE = 2000;
const CONCURRENCY = Number(process.env.GRID_CONCURRENCY) || 64;

function packError(callId, fault) {
  return pack(REPLY, callId, JSON.stringify(fault), FLAG_ERROR);
}

/** A Reply with the result in JSON; Fault as for encode. */
function packResult(callId, result) {
  return pack(REPLY, callId, encode(result));
}

/** A result, or an item of one, in JSON; Fault when it has no such form or is too large. */
function encode(result) {
  let body;
  try {
    body = result === undefined ? 'null' : JSON.stringify(result);
  } catch (error) {
    throw new Fault('task_raised', `the result is not JSON: ${summary(error)}`);
  }
  if (body === undefined) throw new Fault('task_raised', `the result is a ${typeof result}, not JSON`);
  const size = Buffer.byteLength(body);
  if (size > MAX_BODY) {
    throw new Fault('body_too_large', `the result is ${size} bytes of JSON, at most ${MAX_BODY} are allowed`);
  }
  return body;
}

/** Items, to be the JSON list that is the result. */
class Collected {
  #parts = [];
  #size = 2;

  /** One more; Fault past what a result can hold. */
  add(body) {
    this.#parts.push(body);
    this.#size += Buffer.byteLength(body) + 1;
    if (this.#size - 1 <= MAX_BODY) return;
    throw new Fault('body_too_large', `the items are more than ${MAX_BODY} bytes of JSON: ask for a stream of them`);
  }

  get body() { return `[${this.#parts.join(',')}]`; }
}

/** What a handler may know of its call. deadline: milliseconds since 1970, or null; signal: aborted on cancel. */
class Context {
  #meta;
  #abort;

  constructor(frame) {
    this.task = frame.name;
    this.deadline = frame.deadlineMs ? Date.now() + frame.deadlineMs : null;
    this.#meta = frame.meta;
  }

  get node() { return process.env.GRID_NODE ?? ''; }
  get instance() { return process.env.GRID_INSTANCE ?? ''; }
  get invocationId() { return String(this.#read().id ?? ''); }
  get attempt() { return Number(this.#read().attempt ?? 1); }
  /** Of the event that the call delivers; empty for other calls. */
  get topic() { return String(this.#read().topic ?? ''); }
  get signal() { return (this.#abort ??= new AbortController()).signal; }
  get log() { return console; }

  /** Milliseconds until the deadline; Infinity without one, never negative. */
  remaining() { return this.deadline === null ? Infinity : Math.max(0, this.deadline - Date.now()); }

  cancel() { this.#abort?.abort(new Error('the call was cancelled')); }

  #read() {
    try {
      return JSON.parse(this.#meta) ?? {};
    } catch {
      return {};
    }
  }
}

/** One connection and the calls on it. */
class Connection {
  #running = new Map();
  #waiting = new Map();
  #asked = new Map();
  #outlets = new Map();
  #ids = 0n;

  constructor(socket, handlers) {
    this.socket = socket;
    this.handlers = handlers;
  }

  take(frame) {
    if (frame.kind === CALL) {
      this.#waiting.set(frame.callId, frame);
      this.#startNext();
    } else if (frame.kind === REPLY) this.#settle(frame.callId, frame);
    else if (frame.kind === CANCEL) this.#cancel(frame.callId);
    else if (frame.kind === CREDIT) this.#outlets.get(frame.callId)?.add(frame.body);
    else if (frame.kind === PING) this.socket.write(pack(PONG, frame.callId));
  }

  /** Invoke or publish on behalf of the call `parent`: the Reply, or null when the connection is lost. */
  ask(op, name, parent, body, deadlineMs) {
    if (this.socket.destroyed) return Promise.resolve(null);
    const callId = ++this.#ids;
    this.socket.write(packCall(op, callId, name, parent, body, deadlineMs));
    return new Promise((resolve) => { this.#asked.set(callId, resolve); });
  }

  #settle(callId, reply) {
    this.#asked.get(callId)?.(reply);
    this.#asked.delete(callId);
  }

  /** Nobody is there to take the results: tell those that listen. */
  close() {
    this.#waiting.clear();
    for (const context of this.#running.values()) context.cancel();
    for (const outlet of this.#outlets.values()) outlet.close();
    this.#running.clear();
    this.#outlets.clear();
    for (const callId of [...this.#asked.keys()]) this.#settle(callId, null);
  }

  #startNext() {
    for (const [callId, frame] of this.#waiting) {
      if (this.#running.size >= CONCURRENCY) return;
      this.#waiting.delete(callId);
      const context = new Context(frame);
      this.#running.set(callId, context);
      this.#answer(frame, context);
    }
  }

  async #answer(frame, context) {
    let reply;
    try {
      const handler = this.#handler(frame), event = parse(frame.body);
      const call = { line: this, callId: frame.callId, context };
      const result = await served.run(call, () => handler(event, context)), items = itemsOf(result);
      reply = items ? await served.run(call, () => this.#drain(frame, items)) : packResult(frame.callId, result);
    } catch (error) {
      reply = packError(frame.callId, error instanceof Fault ? error : raised(error));
    }
    if (this.#running.get(frame.callId) === context) this.#finish(frame.callId, reply);
  }

  /** Send what a generator yields, and the Reply that ends it; or all of it in the Reply if no stream is wanted. */
  async #drain(frame, items) {
    const collected = frame.flags & FLAG_STREAM ? null : new Collected(), outlet = new Outlet();
    if (this.#running.has(frame.callId)) this.#outlets.set(frame.callId, outlet);
    try {
      for (let next; this.#running.has(frame.callId) && !(next = await items.next()).done;) {
        const body = encode(await next.value);
        if (collected) collected.add(body);
        else if (await outlet.spend(Buffer.byteLength(body))) this.socket.write(pack(PART, frame.callId, body));
      }
    } finally {
      stop(items);
    }
    return pack(REPLY, frame.callId, collected?.body);
  }

  // A function cannot be stopped, but one that waits does no harm: the caller gives it up and the instance serves on.
  // One that never yields does not get here, and the node ends its instance.
  #cancel(callId) {
    const context = this.#running.get(callId);
    if (!context && !this.#waiting.has(callId)) return;
    context?.cancel();
    this.#finish(callId, packError(callId, new Fault('call', 'the call was cancelled')));
  }

  #finish(callId, reply) {
    this.#waiting.delete(callId);
    this.#running.delete(callId);
    this.#outlets.get(callId)?.close();
    this.#outlets.delete(callId);
    this.socket.write(reply);
    this.#startNext();
  }

  #handler(frame) {
    if (frame.op !== OP_INVOKE) throw new Fault('call', `op ${frame.op} is not served here`);
    const handler = this.handlers.get(frame.name);
    if (!handler) {
      const known = [...this.handlers.keys()].sort().join(', ');
      throw new Fault('task_not_found', `no task '${frame.name}' here, there is: ${known}`);
    }
    return handler;
  }
}

function parse(body) {
  if (!body) return null;
  try {
    return JSON.parse(body);
  } catch (error) {
    throw new Fault('body_invalid', `the body is not JSON: ${error.message}`);
  }
}

const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

/** Connect, trying again for `patience` milliseconds; null when nobody listened. */
async function dial(socketPath, patience) {
  const giveUp = Date.now() + patience;
  for (let delay = 10; Date.now() < giveUp; delay = Math.min(delay * 2, 1000)) {
    const socket = await connect(socketPath);
    if (socket) return socket;
    await pause(delay);
  }
  return null;
}

function connect(socketPath) {
  return new Promise((resolve) => {
    const socket = net.connect(socketPath, () => resolve(socket));
    socket.on('error', () => resolve(null));
  });
}

/** Answer calls until the connection ends. */
function serve(socket, hello, handlers) {
  const inbox = new Inbox(), connection = new Connection(socket, handlers);
  socket.write(hello);
  return new Promise((resolve) => {
    socket.on('data', (bytes) => {
      socket.cork();
      try {
        for (const frame of inbox.received(bytes)) connection.take(frame);
      } catch (error) {
        socket.destroy(error);
      }
      process.nextTick(() => socket.uncork());
    });
    socket.on('close', () => {
      connection.close();
      resolve();
    });
  });
}

/** Say in the HELLO why this file cannot be served, and give the node time to read it. */
async function refuse(socketPath, fault) {
  console.error(fault.trace ?? fault.message);
  const socket = await dial(socketPath, DIAL_PATIENCE);
  socket?.write(pack(HELLO, 0n, JSON.stringify({ version: VERSION, handlers: [], error: fault })));
  socket?.resume();
  await Promise.race([pause(HELLO_GRACE), new Promise((resolve) => { socket?.on('close', resolve); })]);
}

/** Serve until nobody has listened for a long time; the process then ends with 1. */
async function main() {
  const { GRID_SOCKET: socketPath, GRID_ROOT: root = '/task', GRID_FILE: file, GRID_TASK: task } = process.env;
  offerToRequire();
  try {
    const handlers = await load(root, file, task);
    const served = [...handlers.keys()].map((name) => ({ name, concurrency: CONCURRENCY }));
    const hello = pack(HELLO, 0n, JSON.stringify({ version: VERSION, handlers: served }));
    let patience = DIAL_PATIENCE;
    for (let socket; (socket = await dial(socketPath, patience)); patience = REDIAL_PATIENCE) {
      await serve(socket, hello, handlers);
      await pause(REDIAL_PAUSE);
    }
  } catch (error) {
    await refuse(socketPath, error instanceof Fault ? error : raised(error));
  }
  process.exit(1);
}

main();
