// A JPEG much larger than is needed at a half, a quarter or an eighth of its size. The library has
// its decoder leave out what is finer (captioner/data/images.py), which makes of each square of
// pixels their mean; a browser decodes the whole, so the mean is taken here.

import { halfToEven } from "./rounding.js";

const SHARES = [8, 4, 2];
const ROWS_AT_ONCE = 64; // of the whole picture

/** @typedef {import("./preprocessing.js").Picture} Picture */

/**
 * Returns a picture that reads so many pixels as one, or the same where it is not much larger.
 *
 * @param {Picture} picture
 * @param {number} leastWidth
 * @param {number} leastHeight
 * @returns {Picture}
 */
export function reduced(picture, leastWidth, leastHeight) {
  const most = Math.min(picture.width / leastWidth, picture.height / leastHeight);
  const share = SHARES.find((one) => most >= one);
  if (!share) return picture;
  // What is left at the edges counts as a pixel where it is more than half of one.
  const width = halfToEven(picture.width / share);
  const height = halfToEven(picture.height / share);
  return {
    width,
    height,
    rows(top, count) {
      const made = new Uint8Array(width * count * 4);
      const atOnce = ROWS_AT_ONCE / share;
      for (let row = 0; row < count; row += atOnce) {
        const from = (top + row) * share;
        const many = Math.min(atOnce, count - row) * share;
        const part = picture.rows(from, Math.min(many, picture.height - from));
        made.set(means(part, picture.width, share, width), row * width * 4);
      }
      return made;
    },
  };
}

/**
 * Returns the means of squares.
 *
 * @param {Uint8ClampedArray | Uint8Array} pixels  Whole rows; the last may be fewer than a square's.
 * @param {number} line  Pixels of a row.
 * @param {number} share  Pixels of a square's side.
 * @param {number} width  Squares of a row.
 */
function means(pixels, line, share, width) {
  const rows = pixels.length / (4 * line);
  const made = new Uint8Array(width * Math.ceil(rows / share) * 4);
  const sums = new Int32Array(width * 4);
  for (let top = 0, to = 0; top < rows; top += share) {
    const high = Math.min(share, rows - top);
    sums.fill(0);
    for (let y = top; y < top + high; y += 1) {
      let from = y * line * 4;
      for (let column = 0; column < width; column += 1) {
        let [red, green, blue] = [0, 0, 0];
        const end = Math.min(from + share * 4, (y + 1) * line * 4);
        for (; from < end; from += 4) {
          red += pixels[from];
          green += pixels[from + 1];
          blue += pixels[from + 2];
        }
        sums[column * 4] += red;
        sums[column * 4 + 1] += green;
        sums[column * 4 + 2] += blue;
      }
    }
    for (let column = 0; column < width; column += 1, to += 4) {
      const area = high * Math.min(share, line - column * share);
      for (let i = 0; i < 3; i += 1) {
        made[to + i] = Math.floor(sums[column * 4 + i] / area + 0.5);
      }
    }
  }
  return made;
}
