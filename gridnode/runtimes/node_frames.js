// The wire's frames as the Node runtime reads and writes them: gridnode/wire.py again.
'use strict';

const VERSION = 1;
const HEADER_SIZE = 24;
const HELLO = 1, CALL = 2, REPLY = 3, PART = 4, CANCEL = 5, PING = 7, PONG = 8, CREDIT = 9;
const FLAG_ERROR = 1, FLAG_STREAM = 2;
const OP_INVOKE = 1, OP_PUBLISH = 40;
const MAX_BODY = 6 * 1024 * 1024, MAX_FRAME = MAX_BODY + 8192;

function pack(kind, callId, body = '', flags = 0) {
  const size = Buffer.byteLength(body);
  const frame = Buffer.alloc(HEADER_SIZE + size);
  frame.writeUInt32BE(size, 0);
  frame.writeBigUInt64BE(callId, 4);
  frame[12] = kind;
  frame[13] = flags;
  frame.write(body, HEADER_SIZE);
  return frame;
}

/** A Call on behalf of the call `parent`. */
function packCall(op, callId, name, parent, body, deadlineMs) {
  const meta = `{"parent":${parent}}`;
  const text = name + meta + body;
  const frame = pack(CALL, callId, text);
  frame.writeUInt16BE(op, 14);
  frame.writeUInt32BE(deadlineMs, 16);
  frame.writeUInt16BE(Buffer.byteLength(name), 20);
  frame.writeUInt16BE(meta.length, 22);
  return frame;
}

/** The bytes of one connection, cut into frames. Holds one frame at most beyond what was read. */
class Inbox {
  #parts = [];
  #held = 0;
  #needed = HEADER_SIZE;

  /** Every frame that these bytes complete; throws on one that is malformed. */
  * received(bytes) {
    this.#parts.push(bytes);
    this.#held += bytes.length;
    if (this.#held < this.#needed) return;
    let rest = this.#parts.length === 1 ? bytes : Buffer.concat(this.#parts);
    while (rest.length >= HEADER_SIZE) {
      const length = rest.readUInt32BE(0);
      const nameSize = rest.readUInt16BE(20), metaSize = rest.readUInt16BE(22);
      if (length > MAX_FRAME || nameSize + metaSize > length) throw new Error(`malformed frame of ${length} bytes`);
      if (rest.length < HEADER_SIZE + length) break;
      yield cut(rest, length, nameSize, metaSize);
      rest = rest.subarray(HEADER_SIZE + length);
    }
    this.#parts = rest.length ? [rest] : [];
    this.#held = rest.length;
    this.#needed = HEADER_SIZE + (rest.length >= HEADER_SIZE ? rest.readUInt32BE(0) : 0);
  }
}

function cut(bytes, length, nameSize, metaSize) {
  const metaAt = HEADER_SIZE + nameSize, bodyAt = metaAt + metaSize;
  return {
    callId: bytes.readBigUInt64BE(4),
    kind: bytes[12],
    flags: bytes[13],
    op: bytes.readUInt16BE(14),
    deadlineMs: bytes.readUInt32BE(16),
    name: bytes.toString('utf8', HEADER_SIZE, metaAt),
    meta: bytes.toString('utf8', metaAt, bodyAt),
    body: bytes.toString(bytes[12] === CREDIT ? 'latin1' : 'utf8', bodyAt, HEADER_SIZE + length),
  };
}

module.exports = {
  VERSION, HELLO, CALL, REPLY, PART, CANCEL, PING, PONG, CREDIT, FLAG_ERROR, FLAG_STREAM, OP_INVOKE, OP_PUBLISH, MAX_BODY,
  Inbox, pack, packCall,
};
