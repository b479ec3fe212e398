// Captions drawn word by word by the decoder's probabilities, sharpened or flattened by a
// temperature, among the most probable words or the fewest that together have enough probability;
// with the rules and the arithmetic (in 64 bits) of captioner/sampling.py, so that a seed draws the
// same captions here and there.

import { END, noCaption, START } from "./beam_search.js";
import { spare, vetoAfter } from "./control.js";
import { Random } from "./random.js";

const ALL_WORDS = 2 ** 30; // a decoding gives no more than there are

/**
 * @typedef {object} Draw
 * @property {number} temperature  Log-probabilities are divided by it.
 * @property {number} topK  Draw among so many most probable words; 0 is all.
 * @property {number} topP  Draw among the fewest most probable words with this probability.
 * @property {number | null} seed
 *
 * @typedef {import("./beam_search.js").SearchOptions & Draw} Options
 *
 * @typedef {object} Drawn  A caption on its way.
 * @property {number[]} words
 * @property {number[]} tokenLogProbs
 * @property {Float32Array[]} attention
 * @property {boolean} isOver
 */

/**
 * Returns `numCaptions` drawn captions, the best scored first; some may be equal. One that has not
 * ended at its greatest length is cut there.
 *
 * @param {import("./beam_search.js").Decoding} decoding
 * @param {Options} options
 * @param {() => Promise<void>} [pause]  Called between steps; what it throws ends the drawing.
 * @returns {Promise<import("./beam_search.js").Hypothesis[]>}
 */
export async function sample(decoding, options, pause = async () => {}) {
  const { numCaptions, maxLength, topK, seed } = options;
  const random = new Random(seed);
  // The end is no candidate at first.
  const count = topK ? 1 + topK + spare(maxLength, options) : ALL_WORDS;
  /** @type {Drawn[]} */
  const captions = Array.from(
    { length: numCaptions },
    () => ({ words: [], tokenLogProbs: [], attention: [], isOver: false }),
  );
  let [words, parents] = [[START], [0]];
  for (let step = 0; ; step += 1) {
    const found = await decoding.step(words, parents, count, []);
    captions.forEach((caption, row) => {
      const uniform = random.next(); // of a caption that is over too, as the library does
      if (!caption.isOver) extend(caption, found, step ? row : 0, uniform, options);
    });
    if (captions.every((one) => one.isOver)) break;
    words = captions.map((one) => (one.isOver ? END : one.words[step]));
    parents = captions.map((_, row) => (step ? row : 0));
    await pause();
  }
  return captions.map((one) => hypothesisOf(one, options)).sort((a, b) => b.score - a.score);
}

/**
 * Adds a drawn word to a caption.
 *
 * @param {Drawn} caption
 * @param {import("./beam_search.js").Candidates} found
 * @param {number} row
 * @param {number} uniform
 * @param {Options} options
 */
function extend(caption, { words, logProbs, count, attention }, row, uniform, options) {
  const isVetoed = vetoAfter(caption.words, options);
  const isFirst = !caption.words.length;
  const own = logProbs.subarray(row * count, (row + 1) * count);
  if (own.some(Number.isNaN)) throw noCaption();
  const places = [...own.keys()].filter((place) => {
    const word = words[row * count + place];
    return own[place] > -Infinity && !isVetoed(word) && !(isFirst && word === END);
  }).sort((a, b) => own[b] - own[a]);
  const place = places[draw(places.map((one) => own[one]), uniform, options)];
  const word = words[row * count + place];
  caption.tokenLogProbs.push(own[place]);
  caption.isOver = word === END || caption.tokenLogProbs.length === options.maxLength;
  if (word === END) return;
  caption.words.push(word);
  if (attention) {
    const items = attention.length / (words.length / count);
    caption.attention.push(attention.slice(row * items, (row + 1) * items));
  }
}

/**
 * Returns the place of one of these log-probabilities, drawn by a number from 0 to below 1.
 *
 * @param {number[]} logProbs  The best first.
 * @param {number} uniform
 * @param {Draw} options
 */
function draw(logProbs, uniform, { temperature, topK, topP }) {
  const among = topK ? logProbs.slice(0, topK) : logProbs;
  if (!among.length) throw noCaption();
  let sum = 0;
  const sums = among.map((one) => {
    sum += Math.exp((one - among[0]) / temperature); // a quotient that overflows is a 0
    return sum;
  });
  // The first word that reaches the probability is the last one that may be drawn.
  const last = sums.findIndex((one) => one >= (topP < 1 ? topP * sum : sum));
  const place = sums.findIndex((one) => one > uniform * sums[last]);
  return place < 0 ? last : Math.min(place, last);
}

/**
 * @param {Drawn} caption
 * @param {Options} options
 * @returns {import("./beam_search.js").Hypothesis}
 */
function hypothesisOf({ words, tokenLogProbs, attention }, { lengthPower }) {
  const logProb = tokenLogProbs.reduce((before, one) => before + one, 0);
  return {
    words,
    logProb,
    score: logProb / tokenLogProbs.length ** lengthPower,
    tokenLogProbs,
    attention: attention.length ? attention : null,
  };
}
