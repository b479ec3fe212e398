// Captions for photographs in the browser, without a server: the photograph never leaves the page.
//
//   import { Captioner } from "./captioner.js";
//   const captioner = await Captioner.load("./", { onProgress: ({ loaded, total }) => … });
//   const captions = await captioner.caption(blob, { beamSize: 3, numCaptions: 3 });
//   captioner.close();
//
// A worker computes, so the page stays responsive. `captioner export --web` makes the folder that
// `load` is given; docs/browser.md says how to host it.

import { CaptionerError } from "./captioner/errors.js";

export { CaptionerError };

const MOST_THREADS = 4; // more share little work among them

/**
 * @typedef {import("./captioner/options.js").CaptionOptions} CaptionOptions
 * @typedef {import("./captioner/pieces.js").Progress} Progress
 * @typedef {import("./captioner/worker.js").Caption} Caption
 *
 * @typedef {object} Answer  What is known of a photograph.
 * @property {Caption[]} captions  The best first.
 * @property {{format: string, width: number, height: number, seen: number[],
 *   attributes: {word: string, probability: number}[]}} image  As people see it; `seen` is the part
 *   that the model saw, as fractions: left, top, right, bottom; `attributes` are words for what it
 *   found there, which captions may look at.
 * @property {"wasm" | "webgpu"} device  What encoded it.
 * @property {{decode: number, encode: number, search: number, total: number}} milliseconds
 *
 * @typedef {object} Info
 * @property {string} name  Of the model.
 * @property {string} hash
 * @property {number} words  How many it knows.
 * @property {"wasm" | "webgpu"} device  What encodes photographs.
 * @property {number} threads
 *
 * @typedef {object} Waiting
 * @property {(value: any) => void} resolve
 * @property {(reason: unknown) => void} reject
 * @property {((progress: Progress) => void) | undefined} onProgress
 */

export class Captioner {
  #worker;
  #number = 0;
  /** @type {CaptionerError | null} */
  #ended = null;
  /** @type {Map<number, Waiting>} */
  #waiting = new Map();

  /** Use `Captioner.load`. */
  constructor() {
    this.#worker = startWorker();
    this.info = /** @type {Info} */ ({});
    this.#worker.addEventListener("message", ({ data }) => this.#hear(data));
    this.#worker.addEventListener("error", (event) => {
      event.preventDefault();
      this.#end(new CaptionerError(
        "The captioner stopped",
        `Perhaps the memory is full. Load the page again. ${event.message ?? ""}`.trim(),
        "stopped",
      ));
    });
  }

  /**
   * Loads a model.
   *
   * @param {string | URL} url  The folder that `captioner export --web` wrote, relative to the page.
   * @param {object} [options]
   * @param {(progress: Progress) => void} [options.onProgress]  Told of the download.
   * @param {AbortSignal} [options.signal]
   * @param {"auto" | "wasm" | "webgpu"} [options.device]  "webgpu" runs the encoder there if the
   *   browser can, and else is "wasm"; "auto", the default, does so if there is a real GPU.
   * @param {number} [options.threads]  Default: up to 4, on pages that are isolated from others.
   * @returns {Promise<Captioner>}
   */
  static async load(url, { onProgress, signal, device = "auto", threads } = {}) {
    signal?.throwIfAborted();
    const captioner = new Captioner();
    const folder = new URL(url, document.baseURI);
    if (!folder.pathname.endsWith("/")) folder.pathname += "/";
    const most = globalThis.crossOriginIsolated ? navigator.hardwareConcurrency || 1 : 1;
    const asked = {
      kind: "load", url: folder.href, device, threads: Math.min(most, threads ?? MOST_THREADS),
    };
    const stop = () => captioner.close();
    signal?.addEventListener("abort", stop, { once: true });
    try {
      captioner.info = await captioner.#ask(asked, { onProgress });
      return captioner;
    } catch (error) {
      captioner.close();
      throw signal?.aborted ? signal.reason : error;
    } finally {
      signal?.removeEventListener("abort", stop);
    }
  }

  /**
   * Returns the captions of a photograph, the best first.
   *
   * @param {Blob} blob  A file that the browser can show: JPEG, PNG, WebP, AVIF, GIF.
   * @param {CaptionOptions & {signal?: AbortSignal}} [options]
   * @returns {Promise<Caption[]>}
   */
  async caption(blob, options = {}) {
    return (await this.look(blob, options)).captions;
  }

  /**
   * Returns the captions of a photograph with what else is known of it.
   *
   * @param {Blob} blob
   * @param {CaptionOptions & {signal?: AbortSignal}} [options]
   * @returns {Promise<Answer>}
   */
  async look(blob, { signal, ...options } = {}) {
    signal?.throwIfAborted();
    const answer = await this.#ask({ kind: "caption", blob, options }, { signal });
    this.info.device = answer.device; // a GPU that failed is not asked again
    return answer;
  }

  /** Ends the worker and frees its memory; captions that are under way are refused. */
  close() {
    this.#end(new CaptionerError("The captioner is closed", "Load it again.", "closed"));
  }

  /**
   * @param {object} message
   * @param {{signal?: AbortSignal, onProgress?: (progress: Progress) => void}} how
   * @returns {Promise<any>}
   */
  #ask(message, { signal, onProgress }) {
    if (this.#ended) return Promise.reject(this.#ended);
    this.#number += 1;
    const id = this.#number;
    return new Promise((resolve, reject) => {
      const stop = () => {
        this.#waiting.delete(id);
        this.#worker.postMessage({ id, kind: "abort" });
        reject(signal?.reason);
      };
      const over = () => signal?.removeEventListener("abort", stop);
      signal?.addEventListener("abort", stop, { once: true });
      this.#waiting.set(id, {
        resolve: (value) => { over(); resolve(value); },
        reject: (reason) => { over(); reject(reason); },
        onProgress,
      });
      this.#worker.postMessage({ ...message, id });
    });
  }

  /** @param {{id: number, value?: any, error?: any, progress?: Progress}} answer */
  #hear({ id, value, error, progress }) {
    const waiting = this.#waiting.get(id);
    if (!waiting) return; // aborted
    if (progress) {
      waiting.onProgress?.(progress);
      return;
    }
    this.#waiting.delete(id);
    if (error) waiting.reject(new CaptionerError(error.title, error.detail, error.code, error.parameter));
    else waiting.resolve(value);
  }

  /** @param {CaptionerError} reason */
  #end(reason) {
    if (this.#ended) return;
    this.#ended = reason;
    this.#worker.terminate();
    for (const { reject } of this.#waiting.values()) reject(reason);
    this.#waiting.clear();
  }
}

function startWorker() {
  const url = new URL("./captioner/worker.js", import.meta.url);
  if (url.origin === location.origin) return new Worker(url, { type: "module" });
  // A worker has to come from the page's own host; this one imports the other host's.
  const source = new Blob([`import ${JSON.stringify(url.href)};`], { type: "text/javascript" });
  const address = URL.createObjectURL(source);
  try {
    return new Worker(address, { type: "module" });
  } finally {
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }
}
