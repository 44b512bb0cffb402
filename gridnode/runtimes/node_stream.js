// Handlers that yield: each item goes to the reader as it allows, or all of them become one list.
'use strict';

const FIRST_ITEMS = 64, FIRST_SIZE = 256 * 1024;
const CREDIT_SIZE = 8;
const GENERATORS = [function* () {}, async function* () {}].map((one) => one.constructor);

/** Whether a handler is a generator function: it gets (event, context), however its parameters are named. */
function isGenerator(handler) {
  return GENERATORS.some((kind) => handler instanceof kind);
}

/** The iterator of what a handler returned, if its items are the result: a generator, or anything to be awaited in turn. */
function itemsOf(result) {
  if (result === null || typeof result !== 'object') return null;
  if (typeof result[Symbol.asyncIterator] === 'function') return result[Symbol.asyncIterator]();
  return typeof result.next === 'function' && typeof result[Symbol.iterator] === 'function' ? result : null;
}

/** Have a generator run its `finally` blocks; what it throws there is nobody's. */
async function stop(items) {
  try {
    await items.return?.();
  } catch { /* its call is over */ }
}

/** What the reader of one stream still takes, and who waits for more of it. */
class Outlet {
  #items = FIRST_ITEMS;
  #size = FIRST_SIZE;
  #wake = null;
  #closed = false;

  /** What a Credit frame allows besides; throws on garbage. */
  add(body) {
    const bytes = Buffer.from(body, 'latin1');
    if (bytes.length !== CREDIT_SIZE) throw new Error(`a credit of ${bytes.length} bytes`);
    this.#items += bytes.readUInt32BE(0);
    this.#size += bytes.readUInt32BE(4);
    this.#wake?.();
  }

  /** Nobody reads any more. */
  close() {
    this.#closed = true;
    this.#wake?.();
  }

  /** Wait for room for one item of so many bytes; false when nobody reads any more. */
  async spend(size) {
    while (!this.#closed && (this.#items < 1 || this.#size < 1)) {
      await new Promise((resolve) => { this.#wake = resolve; });
    }
    this.#items -= 1;
    this.#size -= size;
    return !this.#closed;
  }
}

module.exports = { Outlet, isGenerator, itemsOf, stop };
