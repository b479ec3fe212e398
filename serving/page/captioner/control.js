// Words that may not follow a caption: those that are excluded, that come once, or that would
// repeat what the caption holds (captioner/control.py).

/**
 * @typedef {object} Control
 * @property {number[]} exclude  Ids of words that no caption may hold.
 * @property {number} noRepeatNgram  So many words in a row never come twice; 0 leaves that free.
 * @property {Set<number>} once  Ids of words that come at most once in a caption.
 */

/**
 * Returns what says whether a word may not follow a caption.
 *
 * @param {number[]} caption
 * @param {Control} control
 * @returns {(word: number) => boolean}
 */
export function vetoAfter(caption, { exclude, noRepeatNgram, once }) {
  const vetoed = new Set([...exclude, ...endsOfRepetitions(caption, noRepeatNgram)]);
  for (const word of caption) if (once.has(word)) vetoed.add(word);
  return (word) => vetoed.has(word);
}

/**
 * Returns how many words are vetoed at most after a caption of so many words.
 *
 * @param {number} length
 * @param {Control} control
 */
export function spare(length, { exclude, noRepeatNgram, once }) {
  return exclude.length + (noRepeatNgram || once.size ? length : 0);
}

/**
 * Returns the words that would end so many words in a row that the caption holds already.
 *
 * @param {number[]} caption
 * @param {number} size  Of such a row; 0 for no such rule.
 */
function endsOfRepetitions(caption, size) {
  const ends = [];
  const before = size > 1 ? caption.slice(caption.length - size + 1) : [];
  for (let at = 0; size && at + size <= caption.length; at += 1) {
    if (before.every((word, i) => word === caption[at + i])) ends.push(caption[at + size - 1]);
  }
  return ends;
}
