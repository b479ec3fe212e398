// Captions name what the encoder's classifier is sure of, if the decoder finds words for it: where
// the best caption lacks the most probable attribute, the photograph is searched once more for
// captions that hold the word, and these are taken if their score is not much lower
// (captioner/sure_attributes.py).

import { search } from "./beam_search.js";

const LARGEST_LOSS = 1; // of the score, for a word of the classifier

/** @type {Record<string, string>} Of words of one meaning, the word that stands for all of them. */
export const SYNONYMS = {
  airplane: "plane", bicycle: "bike", cellphone: "phone", couch: "sofa", jet: "plane", motorbike: "motorcycle",
  refrigerator: "fridge", telephone: "phone", television: "tv",
};

/**
 * @typedef {import("./beam_search.js").SearchOptions & {attributeThreshold: number}} Options
 *   With the probability from which an attribute has to be named; 1 leaves captions free.
 *
 * @typedef {import("./beam_search.js").Decoding & {
 *   surest: {word: string, probability: number} | null, again: () => Decoding,
 * }} Decoding  `surest` is the most probable attribute, where a classifier found it; `again`
 *   returns a decoding of the same photograph that has read no word.
 */

/**
 * Returns the best captions, the best first, as `search` does.
 *
 * @param {Decoding} decoding
 * @param {Options} options
 * @param {Map<string, number>} ids  Of the words that the model knows.
 * @param {() => Promise<void>} [pause]  Called between steps; what it throws ends the search.
 * @returns {Promise<import("./beam_search.js").Hypothesis[]>}
 */
export async function searchNaming(decoding, options, ids, pause) {
  const found = await search(decoding, options, pause);
  const word = wordToName(decoding, options, ids);
  if (word === null) return found;
  const forms = formsOf(word, ids);
  if (found[0].words.some((id) => forms.has(id))) return found;
  const include = [/** @type {number} */ (ids.get(word))];
  const others = await search(decoding.again(), { ...options, include }, pause);
  return others[0].score >= found[0].score - LARGEST_LOSS ? others : found;
}

/**
 * Returns the word that captions have to hold, null where they are free.
 *
 * @param {Decoding} decoding
 * @param {Options} options
 * @param {Map<string, number>} ids
 */
function wordToName({ surest }, { attributeThreshold, include, exclude, diverseGroups }, ids) {
  if (!surest || attributeThreshold === 1 || surest.probability < attributeThreshold) return null;
  if (include.length || diverseGroups > 1) return null; // what was asked for comes first
  const id = ids.get(surest.word);
  return id === undefined || exclude.includes(id) ? null : surest.word;
}

/**
 * Returns the ids of a noun and its synonyms, each with the singular and the plural that it may have.
 *
 * @param {string} word
 * @param {Map<string, number>} ids
 */
function formsOf(word, ids) {
  const forms = numbersOf(word).flatMap((one) => {
    const standsForAll = SYNONYMS[one] ?? one;
    const same = Object.keys(SYNONYMS).filter((name) => SYNONYMS[name] === standsForAll);
    return [one, standsForAll, ...same].flatMap(numbersOf);
  });
  return new Set(forms.map((form) => ids.get(form)));
}

/** @param {string} word */
function numbersOf(word) {
  const forms = [word, `${word}s`, `${word}es`];
  if (word.endsWith("y")) forms.push(`${word.slice(0, -1)}ies`);
  if (word.endsWith("s")) forms.push(word.slice(0, -1));
  if (word.endsWith("es")) forms.push(word.slice(0, -2));
  if (word.endsWith("ies")) forms.push(`${word.slice(0, -3)}y`);
  return forms;
}
