// The files of a model and of its runtime, fetched in compressed pieces. A piece is named by its
// hash, so it never changes and is kept for good: in the browser's cache storage where the page
// may use it (over HTTPS or from localhost), else wherever the browser keeps what it fetched.

import { CaptionerError } from "./errors.js";

const AT_ONCE = 4; // requests
const CACHE = "captioner-pieces";
const REPORT_MILLISECONDS = 100;
const SETTLED_SECONDS = 0.5; // of fetching; before, the time left would be a guess

/**
 * @typedef {object} Piece
 * @property {string} name  Relative to the folder of the model.
 * @property {number} bytes  Compressed.
 * @property {string} sha256  Of the compressed bytes.
 *
 * @typedef {object} File
 * @property {number} bytes  Of all pieces together, uncompressed.
 * @property {Piece[]} pieces
 *
 * @typedef {object} Progress
 * @property {number} loaded  Bytes.
 * @property {number} total  Bytes.
 * @property {number} fetched  Bytes of those loaded that came over the network.
 * @property {number | null} secondsLeft  null while that is unknown.
 */

export class Pieces {
  /** @type {Promise<Cache> | null} */
  #cache;
  #base;
  #signal;
  #onProgress;
  #waiting = /** @type {(() => void)[]} */ ([]);
  #underWay = 0;
  #loaded = 0;
  #fetched = 0;
  #total = 0;
  #began = 0;
  #reported = 0;

  /**
   * @param {URL} base  The folder.
   * @param {{onProgress?: (progress: Progress) => void, signal?: AbortSignal}} [options]
   */
  constructor(base, { onProgress, signal } = {}) {
    this.#base = base;
    this.#signal = signal;
    this.#onProgress = onProgress;
    this.#cache = globalThis.caches ? caches.open(CACHE) : null;
    this.#cache?.catch(() => {}); // private windows have the interface and refuse to use it
  }

  /**
   * Returns promises of the contents of files, which are fetched in their order.
   *
   * @template {string} Name
   * @param {Record<Name, File>} files
   * @returns {Record<Name, Promise<Uint8Array<ArrayBuffer>>>}
   */
  fetch(files) {
    const wanted = /** @type {[Name, File][]} */ (Object.entries(files));
    for (const [, file] of wanted) for (const piece of file.pieces) this.#total += piece.bytes;
    const contents = wanted.map(([name, file]) => {
      const content = this.#file(file);
      content.catch(() => {}); // another may fail first; whoever awaits this one still hears of it
      return [name, content];
    });
    return Object.fromEntries(contents);
  }

  /**
   * Forgets pieces of this folder that belong to no file of these: those of the model before.
   *
   * @param {Record<string, File>} files
   */
  async forgetOthers(files) {
    const kept = new Set(Object.values(files).flatMap((file) => file.pieces)
      .map((piece) => new URL(piece.name, this.#base).href));
    try {
      const cache = await this.#cache;
      if (!cache) return;
      const folders = new Set([...kept].map((url) => new URL(".", url).href));
      for (const { url } of await cache.keys()) {
        if (folders.has(new URL(".", url).href) && !kept.has(url)) await cache.delete(url);
      }
    } catch {
      // What is not forgotten only takes room.
    }
  }

  /** @param {File} file */
  async #file({ bytes, pieces }) {
    const content = new Uint8Array(bytes);
    const parts = await Promise.all(pieces.map((piece) => this.#inTurn(() => this.#piece(piece))));
    let at = 0;
    for (const part of parts) {
      content.set(part, at);
      at += part.length;
    }
    if (at !== bytes) throw damaged();
    return content;
  }

  /**
   * @template T
   * @param {() => Promise<T>} work
   * @returns {Promise<T>}
   */
  async #inTurn(work) {
    if (this.#underWay === AT_ONCE) {
      await new Promise((/** @type {(value: void) => void} */ resolve) => { this.#waiting.push(resolve); });
    } else {
      this.#underWay += 1;
    }
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#underWay -= 1;
    }
  }

  /**
   * Returns a piece, uncompressed.
   *
   * @param {Piece} piece
   */
  async #piece(piece) {
    const url = new URL(piece.name, this.#base).href;
    const kept = await this.#kept(url);
    if (kept && await isWhole(kept, piece)) {
      this.#count(kept.length, 0);
      return expand(kept);
    }
    const packed = await this.#fetchPiece(url, piece);
    if (!await isWhole(packed, piece)) throw damaged();
    await this.#keep(url, packed);
    return expand(packed);
  }

  /**
   * @param {string} url
   * @param {Piece} piece
   */
  async #fetchPiece(url, piece) {
    const packed = new Uint8Array(piece.bytes);
    let at = 0;
    try {
      const response = await fetch(url, { signal: this.#signal, credentials: "same-origin" });
      if (!response.ok || !response.body) throw unreachable(`status ${response.status} for ${piece.name}`);
      const reader = response.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        if (at + value.length > packed.length) throw damaged();
        packed.set(value, at);
        at += value.length;
        this.#count(value.length, value.length);
      }
    } catch (error) {
      if (this.#signal?.aborted || error instanceof CaptionerError) throw error;
      throw unreachable("the connection failed");
    }
    return packed.subarray(0, at);
  }

  /** @param {string} url */
  async #kept(url) {
    try {
      const response = await (await this.#cache)?.match(url);
      return response ? new Uint8Array(await response.arrayBuffer()) : null;
    } catch {
      return null;
    }
  }

  /**
   * @param {string} url
   * @param {Uint8Array<ArrayBuffer>} packed
   */
  async #keep(url, packed) {
    try {
      await (await this.#cache)?.put(url, new Response(packed));
    } catch {
      // The disk is full, or a private window keeps nothing: it is fetched again next time.
    }
  }

  /**
   * @param {number} bytes
   * @param {number} fetched
   */
  #count(bytes, fetched) {
    this.#loaded += bytes;
    this.#fetched += fetched;
    const now = performance.now();
    if (fetched) this.#began ||= now; // waiting for the host says nothing of the rate
    const isOver = this.#loaded === this.#total;
    if (!this.#onProgress || (!isOver && now - this.#reported < REPORT_MILLISECONDS)) return;
    this.#reported = now;
    const seconds = (now - this.#began) / 1000;
    const secondsLeft = fetched && seconds > SETTLED_SECONDS
      ? (this.#total - this.#loaded) * (seconds / this.#fetched)
      : null;
    this.#onProgress({
      loaded: this.#loaded, total: this.#total, fetched: this.#fetched, secondsLeft,
    });
  }
}

/**
 * @param {Uint8Array<ArrayBuffer>} packed
 * @param {Piece} piece
 */
async function isWhole(packed, piece) {
  if (packed.length !== piece.bytes) return false;
  if (!globalThis.crypto?.subtle) return true; // pages over plain HTTP have none
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", packed));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("") === piece.sha256;
}

/** @param {Uint8Array<ArrayBuffer>} packed */
async function expand(packed) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  try {
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw damaged();
  }
}

/** @param {string} reason */
function unreachable(reason) {
  return new CaptionerError(
    "The model cannot be fetched",
    `Its host does not answer as it should: ${reason}. Perhaps the network is down; load the page again.`,
    "unreachable",
  );
}

function damaged() {
  return new CaptionerError(
    "The model is damaged",
    "A piece of it is not what was exported. Load the page again; if that does not help, the host has to copy the folder anew.",
    "damaged",
  );
}
