// Answers requests of tests, one JSON value a line, with the modules that run in browsers.
// Usage: node answering.mjs PAGE, the folder of the modules.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const page = pathToFileURL(`${process.argv[2]}/`);
const load = (name) => import(new URL(name, page).href);
const { search } = await load("captioner/beam_search.js");
const { prepare, resize, seenBox } = await load("captioner/preprocessing.js");
const { Model } = await load("captioner/model.js");
const { searchOptions, tokenize } = await load("captioner/options.js");
const { Random } = await load("captioner/random.js");
const { sample } = await load("captioner/sampling.js");
const { searchNaming } = await load("captioner/sure_attributes.js");

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const hear = async () => JSON.parse((await lines.next()).value);

let model = null;

// A decoding whose steps the test computes.
const theirs = {
  async step(words, parents, count, wanted) {
    say({ step: { words, parents, count, wanted } });
    const found = await hear();
    const numbers = (values) => Float32Array.from(values, (value) => value ?? -Infinity);
    return {
      count: found.count,
      logProbs: numbers(found.logProbs),
      words: found.words,
      wanted: numbers(found.wanted),
      attention: numbers(found.attention),
    };
  },
};

function pictureOf({ file, width, height, format }) {
  const pixels = readFileSync(file);
  const rows = (top, count) => pixels.subarray(4 * width * top, 4 * width * (top + count));
  return { width, height, format, rows };
}

const told = (hypotheses) => hypotheses.map((one) => ({
  ...one, attention: one.attention && one.attention.map((row) => Array.from(row)),
}));

const ANSWERS = {
  resize({ picture, width, height, interpolation }) {
    return Buffer.from(resize(pictureOf(picture), width, height, interpolation).pixels).toString("base64");
  },
  prepare({ picture, preprocessing }) {
    return {
      pixels: Buffer.from(prepare(pictureOf(picture), preprocessing)).toString("base64"),
      seen: seenBox(preprocessing, picture.width, picture.height),
    };
  },
  tokenize: ({ text }) => tokenize(text),
  options: ({ options, words }) => (
    searchOptions(options, new Map(words.map((word, place) => [word, place])), new Set())),
  search: async ({ options }) => told(await search(theirs, { ...options, once: new Set(options.once) })),
  sample: async ({ options }) => told(await sample(theirs, { ...options, once: new Set(options.once) })),
  random({ seed, count }) {
    const random = new Random(seed);
    return Array.from({ length: count }, () => random.next());
  },
  async searchNaming({ options, words, surest }) {
    const decoding = { ...theirs, surest, again: () => decoding }; // START begins anew
    const ids = new Map(words.map((word, id) => [word, id]));
    return told(await searchNaming(decoding, { ...options, once: new Set(options.once) }, ids));
  },
  async open({ folder, runtime, manifest }) {
    const ort = await import(pathToFileURL(`${runtime}/ort.wasm.min.mjs`).href);
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = readFileSync(`${runtime}/ort-wasm-simd-threaded.wasm`).buffer;
    const files = Object.fromEntries(
      Object.keys(manifest.files).map((name) => [name, Promise.resolve(new Uint8Array(readFileSync(`${folder}/${name}`)))]),
    );
    model = await Model.open(ort, manifest, files, { device: "wasm", threads: 1 });
    return model.words.length;
  },
  async caption({ picture, options }) {
    const pixels = prepare(pictureOf(picture), model.manifest.preprocessing);
    const decoding = await model.begin(await model.encode(pixels));
    return told(await searchNaming(decoding, { ...options, once: new Set(options.once) }, model.ids));
  },
};

for (;;) {
  const { value, done } = await lines.next();
  if (done) break;
  const asked = JSON.parse(value);
  try {
    say({ value: await ANSWERS[asked.kind](asked) });
  } catch (error) {
    say({ error: error.detail ?? String(error.stack) });
  }
}
