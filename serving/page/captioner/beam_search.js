// Beam search for the captions of one photograph, with the rules and the arithmetic (in 32 bits) of
// the library's search. There is a beam for each set of the words to include that a caption holds
// already (Anderson et al. 2017), and for each of the groups that are kept from choosing the same
// words (Vijayakumar et al. 2018); captioner/control_search.py says more.

import { spare, vetoAfter } from "./control.js";
import { CaptionerError } from "./errors.js";

export const [PAD, START, END] = [0, 1, 2];
export const SPECIAL_TOKENS = 4;

/**
 * @typedef {import("./control.js").Control & Width} SearchOptions
 *
 * @typedef {object} Width
 * @property {number} beamSize  Captions searched side by side; 1 is greedy search.
 * @property {number} numCaptions  At most as many as the beam holds.
 * @property {number} maxLength  Most words of a caption.
 * @property {number} lengthPower  A log-probability is divided by so many-th power of its tokens.
 * @property {number[]} include  Ids of words that every caption has to hold.
 * @property {number} diverseGroups  Parts of the beam that are kept from the same words.
 * @property {number} diversity  What a word loses for each choice of it by an earlier part.
 *
 * @typedef {object} Candidates  What may follow each of K captions, the most probable first.
 * @property {number} count  C, after each.
 * @property {Float32Array} logProbs  [K, C]
 * @property {number[]} words  [K, C]
 * @property {Float32Array} wanted  [K, Q], log-probabilities of the words that were asked for.
 * @property {Float32Array | null} attention  [K, items], where the next word looks.
 *
 * @typedef {object} Decoding  One photograph on its way to captions.
 * @property {(words: number[], parents: number[], count: number, wanted: number[])
 *   => Promise<Candidates>} step  Reads one more word of each caption: the k-th goes on from what
 *   was caption `parents[k]` before. At the first step there is one, of START.
 *
 * @typedef {object} Hypothesis
 * @property {number[]} words  Ids, without start and end.
 * @property {number} logProb  Of these words, and of the end after them.
 * @property {number} score  What captions are ranked by.
 * @property {number[]} tokenLogProbs  Of each word, and of the end if it was reached.
 * @property {Float32Array[] | null} attention  Of each word.
 *
 * @typedef {object} Live  A caption that has not ended.
 * @property {number} logProb
 * @property {number} ranked  The same, less what the choices of other groups cost.
 * @property {number[]} words
 * @property {number} parent  The row that it continues.
 * @property {Float32Array[]} attention
 * @property {number[]} tokenLogProbs
 * @property {number} group
 * @property {number} held  A bit for each word to include.
 *
 * @typedef {object} Finished
 * @property {number} rank  In its group.
 * @property {number} score
 * @property {Live} caption
 */

/**
 * Returns the best captions, the best first, all different; fewer than `numCaptions` only where
 * the vocabulary or the demands allow no more.
 *
 * @param {Decoding} decoding
 * @param {SearchOptions} options
 * @param {() => Promise<void>} [pause]  Called between steps; what it throws ends the search.
 * @returns {Promise<Hypothesis[]>}
 */
export async function search(decoding, options, pause = async () => {}) {
  const beams = new Beams(options);
  let [words, parents] = [[START], [0]];
  for (let step = 0; ; step += 1) {
    beams.advance(step, await decoding.step(words, parents, beams.candidates, options.include));
    if (beams.isDone) return beams.result();
    words = beams.live.map((one) => one.words[step]);
    parents = beams.live.map((one) => one.parent);
    await pause();
  }
}

class Beams {
  /** @param {SearchOptions} options */
  constructor(options) {
    const { beamSize, diverseGroups, include, maxLength } = options;
    this.options = options;
    this.isDone = false;
    this.width = beamSize / diverseGroups;
    this.all = 2 ** include.length - 1;
    this.bits = new Map(include.map((word, place) => [word, 1 << place]));
    // Some words are vetoed, wanted or chosen before; and a group may choose for every set.
    const others = diverseGroups > 1 ? beamSize * (this.all + 1) : 0;
    this.candidates = 2 * this.width + 1 + spare(maxLength, options) + include.length + others;
    const groups = [...Array(diverseGroups).keys()];
    /** @type {Finished[][]} */
    this.pools = groups.map(() => []);
    /** @type {Set<string>} */
    this.taken = new Set(); // what earlier groups have found
    /** @type {Live[]} */
    this.live = groups.map((group) => ({
      logProb: 0, ranked: 0, words: [], parent: 0, attention: [], tokenLogProbs: [], group, held: 0,
    }));
  }

  /**
   * Adds a word to every caption.
   *
   * @param {number} step
   * @param {Candidates} found
   */
  advance(step, found) {
    if (found.logProbs.some(Number.isNaN)) throw noCaption();
    const { diverseGroups, maxLength } = this.options;
    const isLast = step + 1 === maxLength;
    const before = this.live;
    this.live = [];
    this.taken.clear();
    /** @type {Map<number, number>} */
    const chosen = new Map();
    for (let group = 0; group < diverseGroups; group += 1) {
      /** @type {Map<number, Live[]>} */
      const beams = new Map();
      before.forEach((caption, row) => {
        if (caption.group !== group) return;
        // At the first step all groups continue the one row that there is.
        for (const one of this.continued(caption, step ? row : 0, step, found, chosen)) {
          const beam = beams.get(one.held);
          if (beam) beam.push(one);
          else beams.set(one.held, [one]);
        }
      });
      const own = [...beams.keys()].sort((a, b) => a - b)
        .flatMap((held) => this.choose(step, beams.get(held) ?? []));
      if (!this.isGroupDone(group, own)) {
        this.live.push(...own);
        for (const one of own) chosen.set(one.words[step], (chosen.get(one.words[step]) ?? 0) + 1);
      }
      if (isLast) own.filter((one) => one.held === this.all).forEach((one) => this.finish(one, step + 1));
      for (const { caption } of this.pools[group]) this.taken.add(caption.words.join(" "));
    }
    this.isDone = isLast || !this.live.length;
  }

  /** @returns {Hypothesis[]} */
  result() {
    const ranked = this.pools.flatMap((pool) => pool.map((one, place) => ({ place, one })));
    if (!ranked.length) throw noCaption();
    return ranked
      .sort((a, b) => a.place - b.place || b.one.score - a.one.score)
      .slice(0, this.options.numCaptions)
      .sort((a, b) => b.one.score - a.one.score)
      .map(({ one: { score, caption } }) => ({
        words: caption.words,
        logProb: caption.logProb,
        score,
        tokenLogProbs: caption.tokenLogProbs,
        attention: caption.attention.length ? caption.attention : null,
      }));
  }

  /**
   * Yields the caption with each word that may follow, which may be END.
   *
   * @param {Live} caption
   * @param {number} row
   * @param {number} step
   * @param {Candidates} found
   * @param {Map<number, number>} chosen
   * @returns {Generator<Live>}
   */
  * continued(caption, row, step, found, chosen) {
    const { include } = this.options;
    const { count } = found;
    const rows = found.words.length / count;
    const items = found.attention ? found.attention.length / rows : 0;
    const attention = found.attention
      ? [...caption.attention, found.attention.slice(row * items, (row + 1) * items)]
      : caption.attention;
    const isVetoed = vetoAfter(caption.words, this.options);
    const seen = new Set();
    for (let i = 0; i < count + include.length; i += 1) {
      const isWanted = i >= count;
      const word = isWanted ? include[i - count] : found.words[row * count + i];
      const logProb = isWanted
        ? found.wanted[row * include.length + i - count]
        : found.logProbs[row * count + i];
      if (logProb === -Infinity || seen.has(word) || isVetoed(word)) continue;
      if (word === END && (step === 0 || caption.held !== this.all)) continue;
      seen.add(word);
      const cost = Math.fround(this.options.diversity * (chosen.get(word) ?? 0));
      yield {
        logProb: Math.fround(caption.logProb + logProb),
        ranked: Math.fround(Math.fround(caption.ranked + logProb) - cost),
        words: [...caption.words, word],
        parent: row,
        attention,
        tokenLogProbs: [...caption.tokenLogProbs, logProb],
        group: caption.group,
        held: caption.held | (this.bits.get(word) ?? 0),
      };
    }
  }

  /**
   * Returns the best of one beam that go on; the ends among its first go to the pool.
   *
   * @param {number} step
   * @param {Live[]} options
   */
  choose(step, options) {
    // Of equals the one of the better row comes first, then that of the lower word id.
    options.sort((a, b) => b.ranked - a.ranked || a.parent - b.parent || a.words[step] - b.words[step]);
    for (const one of options.slice(0, this.width)) {
      if (one.words[step] !== END) continue;
      const attention = one.attention.slice(0, step);
      this.finish({ ...one, words: one.words.slice(0, step), attention }, step + 1);
    }
    let going = options.slice(0, 2 * this.width);
    if (step + 1 === this.options.maxLength && this.taken.size) { // they are cut, and are captions now
      going = options.filter((one) => !this.taken.has(one.words.join(" ")));
    }
    return going.filter((one) => one.words[step] !== END).slice(0, this.width);
  }

  /**
   * @param {Live} caption
   * @param {number} tokens  The end counted as one.
   */
  finish(caption, tokens) {
    if (this.taken.has(caption.words.join(" "))) return;
    const divisor = Math.fround(tokens ** this.options.lengthPower);
    const rank = Math.fround(caption.ranked / divisor);
    const pool = this.pools[caption.group];
    // After its equals, which have fewer words.
    let place = pool.length;
    while (place > 0 && pool[place - 1].rank < rank) place -= 1;
    pool.splice(place, 0, { rank, score: Math.fround(caption.logProb / divisor), caption });
    pool.length = Math.min(pool.length, this.width);
  }

  /**
   * @param {number} group
   * @param {Live[]} own  Its captions that go on.
   */
  isGroupDone(group, own) {
    const pool = this.pools[group];
    if (pool.length === this.width || !own.length) return true;
    const needed = Math.min(this.options.numCaptions, this.width);
    if (pool.length < needed) return false;
    // No caption has more tokens, and no log-probability grows: nothing can do better than this.
    const longest = Math.fround(Math.max(this.options.maxLength, 1) ** this.options.lengthPower);
    const bound = Math.fround(Math.max(...own.map((one) => one.ranked)) / longest);
    return pool[needed - 1].rank >= bound;
  }
}

export function noCaption() {
  return new CaptionerError(
    "The model finds no caption",
    "No caption meets the demands, or the model is damaged.",
    "no_caption",
  );
}
