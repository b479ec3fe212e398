// What captions can be asked for, with the names and limits of the library and the service.

import { CaptionerError } from "./errors.js";

const MAX_BEAM_SIZE = 10;
const MAX_LENGTH = 200; // words
const MAX_EXCLUDED = 100; // words
const MAX_INCLUDED = 4; // words; each doubles the captions that are searched side by side
const MAX_WORDS = 2 ** 30; // more than any vocabulary has
const KEPT_PUNCTUATION = "#()&=";

/**
 * @typedef {object} CaptionOptions
 * @property {number} [beamSize]  Captions searched side by side, 1 to 10; default: 3, or as many
 *   as are asked for.
 * @property {number} [numCaptions]  How many captions to return; default: 1.
 * @property {number} [maxLength]  Most words of a caption; default: 20.
 * @property {number} [lengthPower]  What a caption's tokens are raised to before its
 *   log-probability is divided by them; default: 0.7.
 * @property {string[]} [include]  Words that every caption has to hold, at most 4.
 * @property {string[]} [exclude]  Words that no caption may hold.
 * @property {number} [noRepeatNgram]  So many words in a row never come twice; default: 0, free.
 * @property {boolean} [repeatWords]  Whether a caption may hold a word of content twice; default:
 *   false.
 * @property {number} [attributeThreshold]  Probability from which the most probable attribute has
 *   to be named in a caption, where the encoder's classifier found it; 1 leaves captions free;
 *   default: 0.7.
 * @property {number} [diverseGroups]  Parts of the beam that are kept from choosing the same words.
 * @property {number} [diversity]  What a word loses for each choice of it by an earlier part.
 * @property {boolean} [sample]  Draw captions by their probability instead of searching for them.
 * @property {number} [temperature]  Of a draw: below 1 likely words are likelier; default: 1.
 * @property {number} [topK]  Draw among so many most probable words; default: 0, all.
 * @property {number} [topP]  Draw among the fewest most probable words that together have this
 *   probability; default: 1.
 * @property {number | null} [seed]  With the same seed, the same captions are drawn.
 */

const DIVERSITY = 0.5; // unless given
/** @type {Required<Pick<CaptionOptions, "temperature" | "topK" | "topP" | "seed">>} */
const UNDRAWN = { temperature: 1, topK: 0, topP: 1, seed: null };

/**
 * Returns the options of a search.
 *
 * @param {CaptionOptions} options
 * @param {Map<string, number>} ids  Of the words that the model knows.
 * @param {Set<number>} once  Ids of those that are words of content.
 * @returns {import("./sure_attributes.js").Options & import("./sampling.js").Draw
 *   & {sample: boolean}}
 */
export function searchOptions(options, ids, once) {
  const numCaptions = whole("numCaptions", options.numCaptions ?? 1, 1, MAX_BEAM_SIZE);
  const diverseGroups = whole("diverseGroups", options.diverseGroups ?? 1, 1, MAX_BEAM_SIZE);
  const enough = Math.ceil(Math.max(numCaptions, 3) / diverseGroups) * diverseGroups;
  const beamSize = whole("beamSize", options.beamSize ?? enough, 1, MAX_BEAM_SIZE);
  const maxLength = whole("maxLength", options.maxLength ?? 20, 1, MAX_LENGTH);
  const noRepeatNgram = whole("noRepeatNgram", options.noRepeatNgram ?? 0, 0, MAX_LENGTH);
  const lengthPower = number("lengthPower", options.lengthPower ?? 0.7);
  const diversity = number("diversity", options.diversity ?? DIVERSITY);
  const attributeThreshold = share("attributeThreshold", options.attributeThreshold ?? 0.7);
  const include = known("include", options.include ?? [], ids, MAX_INCLUDED);
  const exclude = known("exclude", options.exclude ?? [], ids, MAX_EXCLUDED);
  if (numCaptions > beamSize && !options.sample) { // draws need no beam
    throw invalid(`numCaptions is ${numCaptions} and beamSize ${beamSize}; ask for at most as many captions as the beam holds`);
  }
  if (beamSize % diverseGroups) {
    throw invalid(`beamSize is ${beamSize} and diverseGroups ${diverseGroups}; give a beam that can be cut into so many equal parts`);
  }
  if (diverseGroups === 1 && diversity !== DIVERSITY) {
    throw invalid(`diversity is ${diversity} without diverseGroups; it acts between parts of the beam`);
  }
  if (include.length > maxLength) {
    throw invalid(`include holds ${include.length} words and maxLength is ${maxLength}; allow a caption more words`);
  }
  if (include.some((word) => exclude.includes(word))) {
    throw invalid("include and exclude hold the same word; leave it out of one of them");
  }
  const drawn = drawOptions(options);
  if (drawn.sample && (include.length || diverseGroups > 1)) {
    throw invalid(`sample does not go with ${include.length ? "include" : "diverseGroups"}, which is a search; leave one of them out`);
  }
  return {
    ...drawn,
    beamSize,
    numCaptions,
    maxLength,
    lengthPower,
    include,
    exclude,
    noRepeatNgram,
    once: options.repeatWords ? new Set() : once,
    attributeThreshold,
    diverseGroups,
    diversity,
  };
}

/** @param {CaptionOptions} options */
function drawOptions({ sample = false, ...options }) {
  const { temperature, topK, topP, seed } = { ...UNDRAWN, ...options };
  const drawn = {
    sample,
    temperature: number("temperature", temperature),
    topK: whole("topK", topK, 0, MAX_WORDS),
    topP: share("topP", topP),
    seed: seed === null ? null : whole("seed", seed, 0, Number.MAX_SAFE_INTEGER),
  };
  if (!temperature) throw invalid("temperature is 0; give a number above 0");
  for (const [name, left] of Object.entries(UNDRAWN)) {
    const value = drawn[/** @type {keyof typeof UNDRAWN} */ (name)];
    if (!sample && value !== left) {
      throw invalid(`${name} is ${value} without sample; it acts on captions that are drawn alone`);
    }
  }
  return drawn;
}

/**
 * Returns the words of a text as the vocabulary spells them (captioner/vocabulary.py).
 *
 * @param {string} text
 * @returns {string[]}
 */
export function tokenize(text) {
  const written = [...text.toLowerCase()].map((character) => {
    if (/[\p{Pd}\p{Cc}]/u.test(character)) return " ";
    if (KEPT_PUNCTUATION.includes(character)) return character;
    return /[\p{P}$+<>^`|~]/u.test(character) ? "" : character;
  });
  return written.join("").split(/\s+/).filter((word) => word);
}

/**
 * @param {string} option
 * @param {string[]} words
 * @param {Map<string, number>} ids
 * @param {number} most
 */
function known(option, words, ids, most) {
  if (!Array.isArray(words)) throw invalid(`${option} is no list of words`);
  const found = new Set();
  for (const text of words) {
    const tokens = tokenize(String(text));
    const shown = `${option} holds “${String(text).slice(0, 40)}”`;
    if (tokens.length !== 1) throw invalid(`${shown}; give single words`);
    const id = ids.get(tokens[0]);
    if (id === undefined) {
      throw invalid(`${shown}, which is not among the ${ids.size.toLocaleString("en")} words that this model knows; give another word`);
    }
    found.add(id);
  }
  if (found.size > most) throw invalid(`${option} holds ${found.size} words; give at most ${most}`);
  return [...found];
}

/**
 * @param {string} name
 * @param {unknown} value
 * @param {number} least
 * @param {number} most
 */
function whole(name, value, least, most) {
  if (!Number.isInteger(value) || Number(value) < least || Number(value) > most) {
    throw invalid(`${name} is ${value}; give a whole number from ${least} to ${most}`);
  }
  return Number(value);
}

/**
 * @param {string} name
 * @param {unknown} value
 */
function number(name, value) {
  if (typeof value !== "number" || !(value >= 0) || value === Infinity) {
    throw invalid(`${name} is ${value}; give a number of at least 0`);
  }
  return value;
}

/**
 * @param {string} name
 * @param {unknown} value
 */
function share(name, value) {
  if (typeof value !== "number" || !(value > 0 && value <= 1)) {
    throw invalid(`${name} is ${value}; give a number above 0, at most 1`);
  }
  return value;
}

/**
 * @param {string} detail  Begins with the name of the option.
 */
function invalid(detail) {
  const parameter = detail.split(" ", 1)[0].replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return new CaptionerError("An option is not valid", `${detail}.`, "invalid_parameter", parameter);
}
