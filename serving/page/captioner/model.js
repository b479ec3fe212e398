// A model in ONNX Runtime: the encoder's graph, and the decoder's two (captioner/graphs.py).

import { SPECIAL_TOKENS } from "./beam_search.js";
import { CaptionerError } from "./errors.js";

/**
 * @typedef {object} Manifest  What `captioner export --web` writes about a model.
 * @property {number} format_version
 * @property {string} name
 * @property {string} hash
 * @property {import("./preprocessing.js").Preprocessing} preprocessing
 * @property {number} grid  Positions along each side.
 * @property {number} vocabulary_size
 * @property {string[]} share_names  What captions attend to beside the picture and attributes.
 * @property {string} [attribute_detector]  What finds the picture's attributes; empty for nothing.
 * @property {{weights: {log_prob: number, tokens: number}, bias: number} | null} confidence
 * @property {Record<string, string[]>} graphs  The files of weights that each graph reads.
 * @property {Record<string, import("./pieces.js").File>} files
 * @property {Record<string, RuntimeFiles>} runtimes  By device.
 *
 * @typedef {object} RuntimeFiles
 * @property {string} module  ONNX Runtime, as a module of JavaScript.
 * @property {string} glue  The module that loads its WebAssembly.
 * @property {string} binary  The name of that, among the files.
 *
 * @typedef {"wasm" | "webgpu"} Device
 * @typedef {{device: Device, threads: number}} Computing
 * @typedef {Record<string, any>} Tensors  Of ONNX Runtime, by name.
 *
 * @typedef {object} Vocabulary
 * @property {string[]} words
 * @property {string[]} [repeatable]  Those that may come twice in a caption; without it, all.
 */

const FORMAT_VERSION = 1;
const [ENCODER, PREPARE, STEP] = ["encoder.onnx", "prepare.onnx", "step.onnx"];
const VOCABULARY = "vocabulary.json";
const CLASSIFIER = "classifier"; // the detector whose probabilities are to be relied on
const STATE = "state.";
const NEXT = "next.";

/**
 * Raises an error for the description of a model that this module cannot read.
 *
 * @param {any} manifest
 * @returns {Manifest}
 */
export function checked(manifest) {
  if (manifest?.format_version !== FORMAT_VERSION) {
    throw new CaptionerError(
      "The model is of another version",
      `Its description has format_version ${manifest?.format_version}, and this module reads ${FORMAT_VERSION}. Export it again.`,
      "version",
    );
  }
  return manifest;
}

export class Model {
  /**
   * @param {any} ort  ONNX Runtime.
   * @param {Manifest} manifest
   * @param {Record<string, any>} sessions
   * @param {Vocabulary} vocabulary
   * @param {Computing} computedBy
   */
  constructor(ort, manifest, sessions, { words, repeatable }, computedBy) {
    this.ort = ort;
    this.computedBy = computedBy;
    this.manifest = manifest;
    this.sessions = sessions;
    this.words = words;
    /** @type {Map<string, number>} */
    this.ids = new Map();
    words.forEach((word, id) => { if (id >= SPECIAL_TOKENS) this.ids.set(word, id); });
    const again = new Set(repeatable ?? words);
    /** Ids of words that come at most once in a caption. */
    this.once = new Set([...this.ids].filter(([word]) => !again.has(word)).map(([, id]) => id));
  }

  /**
   * @param {any} ort
   * @param {Manifest} manifest
   * @param {Record<string, Promise<Uint8Array>>} files
   * @param {Computing} computedBy  The device is the encoder's; steps are too small to gain by it.
   */
  static async open(ort, manifest, files, computedBy) {
    /** @type {Record<string, any>} */
    const sessions = {};
    for (const graph of [ENCODER, PREPARE, STEP]) {
      const weights = manifest.graphs[graph];
      const externalData = await Promise.all(
        weights.map(async (path) => ({ path, data: await files[path] })),
      );
      sessions[graph] = await ort.InferenceSession.create(await files[graph], {
        executionProviders: graph === ENCODER && computedBy.device === "webgpu" ? ["webgpu", "wasm"] : ["wasm"],
        externalData,
        logSeverityLevel: 3,
      });
    }
    const vocabulary = JSON.parse(new TextDecoder().decode(await files[VOCABULARY]));
    return new Model(ort, manifest, sessions, vocabulary, computedBy);
  }

  /**
   * Returns the features of one photograph.
   *
   * @param {Uint8Array} pixels  [side, side, 3]
   * @returns {Promise<Tensors>}
   */
  async encode(pixels) {
    const side = this.manifest.preprocessing.image_size;
    return this.run(ENCODER, { pixels: new this.ort.Tensor("uint8", pixels, [1, side, side, 3]) });
  }

  /** Looks at a grey picture, for which a GPU compiles; raises an error if that makes no numbers. */
  async warmUp() {
    const side = this.manifest.preprocessing.image_size;
    const features = await this.encode(new Uint8Array(side * side * 3).fill(128));
    for (const { data } of Object.values(features)) {
      if (!data.every(Number.isFinite)) throw new Error("what it computes is no number");
    }
  }

  /**
   * Returns the beginning of a photograph's captions.
   *
   * @param {Tensors} features
   */
  async begin(features) {
    return new GraphDecoding(this, await this.run(PREPARE, features));
  }

  /**
   * Returns all outputs of a graph; what it does not read may be given too.
   *
   * @param {string} graph
   * @param {Tensors} given
   * @returns {Promise<Tensors>}
   */
  async run(graph, given) {
    const session = this.sessions[graph];
    return session.run(
      Object.fromEntries(session.inputNames.map((/** @type {string} */ name) => [name, given[name]])),
    );
  }

  async close() {
    for (const session of Object.values(this.sessions)) await session.release();
  }
}

/** A photograph on its way to captions, by the graph of a step. */
class GraphDecoding {
  /**
   * @param {Model} model
   * @param {Tensors} prepared
   */
  constructor(model, prepared) {
    this.model = model;
    this.prepared = prepared;
    this.held = { ...prepared };
    const [words, probabilities] = [prepared["attributes.words"], prepared["attributes.probabilities"]];
    /** @type {{word: string, probability: number}[]} */
    this.attributes = words
      ? Array.from(words.data, (id, place) => (
        { word: model.words[Number(id)], probability: probabilities.data[place] }))
      : [];
    const isReliable = model.manifest.attribute_detector === CLASSIFIER;
    this.surest = isReliable ? this.attributes[0] ?? null : null;
  }

  /** Returns a decoding of the same photograph that has read no word. */
  again() {
    return new GraphDecoding(this.model, this.prepared);
  }

  /**
   * @param {number[]} words
   * @param {number[]} parents
   * @param {number} count
   * @param {number[]} wanted
   * @returns {Promise<import("./beam_search.js").Candidates>}
   */
  async step(words, parents, count, wanted) {
    const most = Math.min(count, this.model.manifest.vocabulary_size);
    const integers = (/** @type {number[]} */ values, /** @type {number[]} */ shape) =>
      new this.model.ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
    const found = await this.model.run(STEP, {
      ...this.held,
      words: integers(words, [1, words.length]),
      parents: integers(parents, [1, parents.length]),
      count: integers([most], [1]),
      wanted: integers(wanted, [1, wanted.length]),
    });
    for (const [name, values] of Object.entries(found)) {
      if (name.startsWith(NEXT)) this.held[STATE + name.slice(NEXT.length)] = values;
    }
    return {
      count: most,
      logProbs: found.log_probs.data,
      words: Array.from(found.candidates.data, Number),
      wanted: found.wanted_log_probs.data,
      attention: found.attention?.data ?? null,
    };
  }
}

