// The worker behind Captioner: it alone holds the model. Messages and answers carry the number of
// the request that they belong to.

import { CaptionerError } from "./errors.js";
import { checked, Model } from "./model.js";
import { searchOptions } from "./options.js";
import { openPicture } from "./pictures.js";
import { Pieces } from "./pieces.js";
import { prepare, seenBox } from "./preprocessing.js";
import { sample } from "./sampling.js";
import { searchNaming } from "./sure_attributes.js";

const MANIFEST = "model.json";
const NOT_OPENED = "not_opened";
const WARM_UP_SECONDS = 20; // a GPU that has not encoded a picture by then is not used by itself
const LEAST_SHARE = 1e-12; // of the attention that the picture has, lest its shares be no numbers

/**
 * @typedef {object} Caption
 * @property {string} text  The tokens joined by blanks: lower case, no punctuation.
 * @property {string[]} tokens
 * @property {number} logProb  Natural logarithm of the probability of exactly this caption.
 * @property {number} probability
 * @property {number} score  What captions are ranked by.
 * @property {number | null} confidence  The chance that it agrees with people's captions as well as
 *   half of theirs do with each other; null where the model was not calibrated.
 * @property {number[]} wordProbabilities  Of each token after those before it.
 * @property {number | null} endProbability  That the caption ends there; null where it was cut.
 * @property {number[][][] | null} attention  For each token rows of weights that sum to 1.
 * @property {number[][] | null} attributeAttention  For each token how much of its look was at each
 *   of the picture's attributes; null where the model reads none.
 * @property {Record<string, number[]>} shares  Of what else was looked at, the share in each token.
 */

/** @type {Promise<Model> | null} */
let loading = null;
/** @type {() => Promise<Model>} Opens the model for WebAssembly. */
let withoutGpu;
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
async function load(id, { url, device: asked, threads }) {
  const base = new URL(url);
  const manifest = checked(await fetchManifest(base));
  const patience = asked === "auto" ? WARM_UP_SECONDS : Infinity;
  const openOn = (/** @type {import("./model.js").Device} */ device) => (
    open(id, base, manifest, { device, threads }, patience));
  withoutGpu = () => openOn("wasm");
  const device = await choose(asked, manifest);
  loading = device === "wasm" ? openOn(device) : openOn(device).catch((error) => {
    if (error instanceof CaptionerError && error.code !== NOT_OPENED) throw error; // of the network
    return withoutGpu();
  });
  const model = await loading;
  const { name, hash, preprocessing, grid } = model.manifest;
  return { name, hash, preprocessing, grid, words: model.ids.size, ...model.computedBy };
}

/**
 * @param {number} id
 * @param {URL} base
 * @param {import("./model.js").Manifest} manifest
 * @param {import("./model.js").Computing} computing
 * @param {number} patience  Seconds that a GPU may take for its first picture.
 */
async function open(id, base, manifest, { device, threads }, patience) {
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
    if (device === "webgpu") await within(patience, model.warmUp());
  } catch (error) {
    if (error instanceof CaptionerError) throw error;
    throw new CaptionerError(
      "The model cannot be opened",
      `This browser lacks something that it needs, or the memory is full: ${error instanceof Error ? error.message : error}.`,
      NOT_OPENED,
    );
  }
  delete ort.env.wasm.wasmBinary; // 14 MB that nobody reads again
  await pieces.forgetOthers(manifest.files);
  return model;
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
 * Returns the device that is asked for, if this browser has it and the model its runtime. By itself
 * it is a GPU, but no software that stands for one, which is slower than WebAssembly.
 *
 * @param {import("./model.js").Device | "auto"} asked
 * @param {import("./model.js").Manifest} manifest
 * @returns {Promise<import("./model.js").Device>}
 */
async function choose(asked, manifest) {
  if (asked === "wasm" || !manifest.runtimes.webgpu) return "wasm";
  if (!("Suspending" in WebAssembly)) return "wasm"; // the runtime waits for the GPU so
  const gpu = /** @type {any} */ (globalThis.navigator)?.gpu;
  const adapter = await gpu?.requestAdapter().catch(() => null);
  if (!adapter || (asked === "auto" && adapter.info?.isFallbackAdapter)) return "wasm";
  return "webgpu";
}

/**
 * Returns what work gives, or raises an error if that takes longer.
 *
 * @template T
 * @param {number} seconds
 * @param {Promise<T>} work
 */
async function within(seconds, work) {
  if (seconds === Infinity) return work;
  let timer = 0;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`it took more than ${seconds} s`)), seconds * 1000);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Returns the features of a photograph, and the model that goes on with them: where a GPU fails,
 * that is one without, from then on.
 *
 * @param {Model} model
 * @param {Uint8Array} pixels
 * @returns {Promise<{model: Model, features: import("./model.js").Tensors}>}
 */
async function encode(model, pixels) {
  try {
    return { model, features: await model.encode(pixels) };
  } catch (error) {
    if (model.computedBy.device === "wasm") throw error;
    loading = withoutGpu();
    const other = await loading;
    return { model: other, features: await other.encode(pixels) };
  }
}

/**
 * @param {number} id
 * @param {Blob} blob
 * @param {import("./options.js").CaptionOptions} options
 */
async function caption(id, blob, options) {
  if (!loading) throw new Error("no model was loaded");
  const loaded = await loading;
  stopIfAborted(id);
  const searched = searchOptions(options, loaded.ids, loaded.once);
  const began = performance.now();
  const picture = await openPicture(blob);
  let pixels;
  try {
    pixels = prepare(picture, loaded.manifest.preprocessing);
  } finally {
    picture.close();
  }
  await letMessagesIn(id);
  const decoded = performance.now();
  const { model, features } = await encode(loaded, pixels);
  await letMessagesIn(id);
  const encoded = performance.now();
  const decoding = await model.begin(features);
  const pause = () => letMessagesIn(id);
  const hypotheses = await (searched.sample
    ? sample(decoding, searched, pause)
    : searchNaming(decoding, searched, model.ids, pause));
  const done = performance.now();
  const { format, width, height } = picture;
  return {
    captions: hypotheses.map((one) => captionOf(one, model)),
    image: {
      format,
      width,
      height,
      seen: seenBox(model.manifest.preprocessing, width, height),
      attributes: decoding.attributes,
    },
    device: model.computedBy.device,
    milliseconds: {
      decode: decoded - began, encode: encoded - decoded, search: done - encoded, total: done - began,
    },
  };
}

/**
 * @param {import("./beam_search.js").Hypothesis} hypothesis
 * @param {Model} model
 * @returns {Caption}
 */
function captionOf({ words, logProb, score, tokenLogProbs, attention }, model) {
  const tokens = words.map((word) => model.words[word]);
  const each = tokenLogProbs.map(Math.exp);
  return {
    text: tokens.join(" "),
    tokens,
    logProb,
    probability: Math.exp(logProb),
    score,
    confidence: confidenceOf(tokenLogProbs, model.manifest.confidence),
    wordProbabilities: each.slice(0, tokens.length),
    endProbability: each[tokens.length] ?? null,
    ...looksOf(attention, model.manifest),
  };
}

/**
 * Returns the chance that a caption is as good as a person's (captioner/confidence.py).
 *
 * @param {number[]} tokenLogProbs
 * @param {import("./model.js").Manifest["confidence"]} curve
 */
function confidenceOf(tokenLogProbs, curve) {
  if (!curve) return null;
  const sum = tokenLogProbs.reduce((before, one) => before + one, 0);
  const logit = curve.bias + curve.weights.log_prob * sum
    + curve.weights.tokens * tokenLogProbs.length;
  return 1 / (1 + Math.exp(-logit));
}

/**
 * Returns where each token looked: at the picture, at its attributes, at what has another name.
 *
 * @param {Float32Array[] | null} attention  Of each token, in this order.
 * @param {import("./model.js").Manifest} manifest
 * @returns {Pick<Caption, "attention" | "attributeAttention" | "shares">}
 */
function looksOf(attention, { grid, share_names: names }) {
  if (!attention?.length) return { attention: null, attributeAttention: null, shares: {} };
  const positions = grid * grid;
  const items = attention[0].length;
  const others = items - names.length;
  return {
    attention: attention.map((weights) => {
      const own = Array.from(weights.subarray(0, positions));
      const sum = items > positions ? Math.max(own.reduce((before, one) => before + one, 0), LEAST_SHARE) : 1;
      return Array.from({ length: grid }, (_, row) => (
        own.slice(row * grid, (row + 1) * grid).map((weight) => weight / sum)));
    }),
    attributeAttention: others > positions
      ? attention.map((weights) => Array.from(weights.subarray(positions, others)))
      : null,
    shares: Object.fromEntries(
      names.map((name, place) => [name, attention.map((weights) => weights[others + place])]),
    ),
  };
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
    const { title, detail, code, parameter } = error;
    return { title, detail, code, parameter };
  }
  if (error instanceof DOMException && error.name === "AbortError") return { isAbort: true };
  return {
    title: "The captioner failed",
    detail: `Load the page again. If that does not help, report this: ${error instanceof Error ? error.message : error}.`,
    code: "internal_error",
  };
}
