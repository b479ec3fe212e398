// The worker behind Captioner: it alone holds the model. Messages and answers carry the number of
// the request that they belong to.

import { search, SPECIAL_TOKENS } from "./beam_search.js";
import { CaptionerError } from "./errors.js";
import { checked, Model } from "./model.js";
import { searchOptions } from "./options.js";
import { openPicture } from "./pictures.js";
import { Pieces } from "./pieces.js";
import { prepare, seenBox } from "./preprocessing.js";

const MANIFEST = "model.json";

/**
 * @typedef {object} Loaded
 * @property {Model} model
 * @property {Map<string, number>} ids
 *
 * @typedef {object} Caption
 * @property {string} text  The tokens joined by blanks: lower case, no punctuation.
 * @property {string[]} tokens
 * @property {number} logProb  Natural logarithm of the probability of exactly this caption.
 * @property {number} probability
 * @property {number} score  What captions are ranked by.
 * @property {number[]} tokenLogProbs  Of each token, and of the end if it was reached.
 * @property {number[][][] | null} attention  For each token rows of weights over the picture.
 * @property {Record<string, number>[] | null} attributes  For each token how much it looked at each
 *   of the words that were found in the picture beforehand; null where there are none.
 */

/** @type {Promise<Loaded> | null} */
let loading = null;
/** @type {Promise<unknown>} */
let turn = Promise.resolve();
/** @type {Set<number>} */
const aborted = new Set();
const channel = new MessageChannel();

addEventListener("message", ({ data }) => {
  const { id, kind } = data;
  if (kind === "abort") {
    aborted.add(id);
    return;
  }
  const work = async () => (
    kind === "load" ? load(id, data) : caption(id, data.blob, data.options)
  );
  // One after the other: several would share the core and the memory, and all end late.
  turn = turn.then(work).then(
    (value) => postMessage({ id, value }),
    (error) => postMessage({ id, error: told(error) }),
  ).finally(() => aborted.delete(id));
});

/**
 * @param {number} id
 * @param {{url: string, device: import("./model.js").Device | "auto", threads: number}} asked
 */
async function load(id, { url, device, threads }) {
  loading = open(id, new URL(url), device, threads);
  const { model } = await loading;
  const { name, hash, preprocessing, grid } = model.manifest;
  return { name, hash, preprocessing, grid, words: model.words.length - SPECIAL_TOKENS, ...model.computedBy };
}

/**
 * @param {number} id
 * @param {URL} base
 * @param {import("./model.js").Device | "auto"} asked
 * @param {number} threads
 */
async function open(id, base, asked, threads) {
  const manifest = checked(await fetchManifest(base));
  const device = await choose(asked, manifest);
  const runtime = manifest.runtimes[device];
  const pieces = new Pieces(base, {
    onProgress: (progress) => postMessage({ id, progress }),
  });
  const others = Object.entries(manifest.runtimes).filter(([name]) => name !== device)
    .map(([, { binary }]) => binary);
  const wanted = Object.fromEntries(
    Object.entries(manifest.files).filter(([name]) => !others.includes(name)),
  );
  const files = pieces.fetch(wanted);
  const ort = await import(new URL(runtime.module, base).href);
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = { mjs: new URL(runtime.glue, base).href };
  ort.env.wasm.wasmBinary = (await files[runtime.binary]).buffer;
  let model;
  try {
    model = await Model.open(ort, manifest, files, { device, threads });
  } catch (error) {
    if (error instanceof CaptionerError) throw error;
    throw new CaptionerError(
      "The model cannot be opened",
      `This browser lacks something that it needs, or the memory is full: ${error instanceof Error ? error.message : error}.`,
      "not_opened",
    );
  }
  delete ort.env.wasm.wasmBinary; // 14 MB that nobody reads again
  await pieces.forgetOthers(manifest.files);
  const ids = new Map(model.words.map((word, place) => [word, place]));
  for (const special of model.words.slice(0, SPECIAL_TOKENS)) ids.delete(special);
  return { model, ids };
}

/** @param {URL} base */
async function fetchManifest(base) {
  const url = new URL(MANIFEST, base);
  try {
    const response = await fetch(url, { cache: "no-cache", credentials: "same-origin" });
    if (response.ok) return await response.json();
  } catch {
    // Said below.
  }
  throw new CaptionerError(
    "The model cannot be fetched",
    `There is no description of a model at ${url}. Perhaps the network is down, or the folder is another.`,
    "unreachable",
  );
}

/**
 * @param {import("./model.js").Device | "auto"} asked
 * @param {import("./model.js").Manifest} manifest
 * @returns {Promise<import("./model.js").Device>}
 */
async function choose(asked, manifest) {
  if (asked === "wasm" || !manifest.runtimes.webgpu) return "wasm";
  const gpu = /** @type {any} */ (globalThis.navigator)?.gpu;
  const suspends = "Suspending" in WebAssembly; // the runtime for WebGPU waits for it so
  const adapter = suspends ? await gpu?.requestAdapter().catch(() => null) : null;
  const isSoftware = adapter?.info?.isFallbackAdapter ?? adapter?.isFallbackAdapter ?? false;
  return adapter && (asked === "webgpu" || !isSoftware) ? "webgpu" : "wasm";
}

/**
 * @param {number} id
 * @param {Blob} blob
 * @param {import("./options.js").CaptionOptions} options
 */
async function caption(id, blob, options) {
  if (!loading) throw new Error("no model was loaded");
  const { model, ids } = await loading;
  stopIfAborted(id);
  const searched = searchOptions(options, ids);
  const began = performance.now();
  const picture = await openPicture(blob);
  let pixels;
  try {
    pixels = prepare(picture, model.manifest.preprocessing);
  } finally {
    picture.close();
  }
  await letMessagesIn(id);
  const decoded = performance.now();
  const features = await model.encode(pixels);
  await letMessagesIn(id);
  const encoded = performance.now();
  const decoding = await model.begin(features);
  const hypotheses = await search(decoding, searched, () => letMessagesIn(id));
  const done = performance.now();
  const { format, width, height } = picture;
  return {
    captions: hypotheses.map((one) => captionOf(one, model, decoding.attributes)),
    image: { format, width, height, seen: seenBox(model.manifest.preprocessing, width, height) },
    milliseconds: {
      decode: decoded - began, encode: encoded - decoded, search: done - encoded, total: done - began,
    },
  };
}

/**
 * @param {import("./beam_search.js").Hypothesis} hypothesis
 * @param {Model} model
 * @param {{word: string, probability: number}[]} attributes
 * @returns {Caption}
 */
function captionOf({ words, logProb, score, tokenLogProbs, attention }, model, attributes) {
  const tokens = words.map((word) => model.words[word]);
  const { grid } = model.manifest;
  return {
    text: tokens.join(" "),
    tokens,
    logProb,
    probability: Math.exp(logProb),
    score,
    tokenLogProbs,
    attention: attention && attention.map((weights) => rowsOf(weights, grid)),
    attributes: attention && attributes.length
      ? attention.map((weights) => Object.fromEntries(
        attributes.map(({ word }, place) => [word, weights[grid * grid + place]]),
      ))
      : null,
  };
}

/**
 * @param {Float32Array} weights
 * @param {number} grid
 */
function rowsOf(weights, grid) {
  return Array.from({ length: grid }, (_, row) => Array.from(weights.subarray(row * grid, (row + 1) * grid)));
}

/** @param {number} id */
function stopIfAborted(id) {
  if (aborted.has(id)) throw new DOMException("The captions are not wanted any more.", "AbortError");
}

/**
 * Lets the messages that wait be read, and ends the work for a request that one of them aborts.
 *
 * @param {number} id
 */
async function letMessagesIn(id) {
  await new Promise((resolve) => {
    channel.port1.onmessage = resolve;
    channel.port2.postMessage(null);
  });
  stopIfAborted(id);
}

/** @param {unknown} error */
function told(error) {
  if (error instanceof CaptionerError) {
    return { title: error.title, detail: error.detail, code: error.code };
  }
  if (error instanceof DOMException && error.name === "AbortError") return { isAbort: true };
  return {
    title: "The captioner failed",
    detail: `Load the page again. If that does not help, report this: ${error instanceof Error ? error.message : error}.`,
    code: "internal_error",
  };
}
