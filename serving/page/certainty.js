// How sure a caption and its words are, in words and figures for people.

const LIKELY = 0.5;
const POSSIBLE = 0.25;
const UNSURE = 0.2; // a word less probable than this is shown as unsure
const NOTABLE = 0.1; // of a word's look, worth a mention
const PERCENT = "\u00a0%"; // never at the beginning of a line

/** @typedef {import("./service.js").Caption} Caption */

/**
 * Returns the line below a caption: how likely it is as good as a person's, as a bar, words and a
 * figure. Without a confidence it is the probability of exactly these words.
 *
 * @param {Caption} caption
 */
export function certainty(caption) {
  const { confidence, probability } = caption;
  const isCalibrated = typeof confidence === "number";
  const value = isCalibrated ? confidence : probability;
  const bar = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const part = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  bar.setAttribute("viewBox", "0 0 100 4");
  bar.setAttribute("preserveAspectRatio", "none");
  bar.setAttribute("aria-hidden", "true");
  part.setAttribute("height", "4");
  part.setAttribute("width", String(Math.max(1, Math.round(100 * value))));
  bar.append(part);
  const text = document.createElement("span");
  text.textContent = isCalibrated ? inWords(value) : `exactly these words: ${chance(value)}`;
  text.title = isCalibrated
    ? "The chance that this caption agrees with people's as well as half of people's captions do "
      + `with each other. Exactly these words have the probability ${chance(probability)}.`
    : "The probability that the model gives to exactly this wording, among all it could write";
  const line = document.createElement("span");
  line.className = "likely";
  line.append(bar, text);
  return line;
}

/** @param {number} confidence */
function inWords(confidence) {
  const figure = percent(confidence);
  if (confidence >= LIKELY) return `Probably as good as a person’s: ${figure}`;
  if (confidence >= POSSIBLE) return `Perhaps as good as a person’s: ${figure}`;
  return `Unlikely to be as good as a person’s: ${figure}`;
}

/**
 * Returns whether a word of this probability is to be shown as unsure.
 *
 * @param {number | undefined} probability
 * @returns {probability is number}
 */
export function isUnsure(probability) {
  return typeof probability === "number" && probability < UNSURE;
}

/**
 * Returns what is known of a word, for the line that tells what it looked at.
 *
 * @param {Caption} caption
 * @param {number} index  Of the word.
 * @param {import("./service.js").Attribute[]} attributes
 * @param {string} place  Where in the picture, or empty.
 */
export function aboutWord(caption, index, attributes, place) {
  const parts = place ? [place] : [];
  (caption.attribute_attention?.[index] ?? []).forEach((share, number) => {
    if (share >= NOTABLE && attributes[number]) {
      parts.push(`${percent(share)} at the found word “${attributes[number].word}”`);
    }
  });
  for (const [name, shares] of Object.entries(caption.shares ?? {})) {
    if (shares[index] >= NOTABLE) parts.push(`${percent(shares[index])} at its ${name}`);
  }
  const probability = caption.word_probabilities?.[index];
  if (typeof probability === "number") {
    parts.push(`${isUnsure(probability) ? "only " : ""}${percent(probability)} sure`);
  }
  return parts.join("; ");
}

/**
 * Returns a probability in words. Whole captions are improbable, however good: what no percentage
 * can show is said as "1 in N".
 *
 * @param {number} probability
 */
export function chance(probability) {
  const precision = { maximumSignificantDigits: 2 };
  if (probability >= 0.001) {
    return `${(100 * probability).toLocaleString("en", precision)}${PERCENT}`;
  }
  /** @type {Intl.NumberFormatOptions} */
  const rarity = { ...precision, notation: "compact", compactDisplay: "long" };
  if (probability > 0) return `1 in ${(1 / probability).toLocaleString("en", rarity)}`;
  return `nearly 0${PERCENT}`;
}

/** @param {number} share */
export function percent(share) {
  if (share > 0 && share < 0.01) return `under 1${PERCENT}`;
  return `${Math.round(100 * share)}${PERCENT}`;
}
