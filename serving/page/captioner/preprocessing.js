// Photographs at the size that an encoder sees, with the pixels that Pillow gives the library:
// its resize, antialiased and in integers (Pillow's libImaging/Resample.c), and the library's crops
// (captioner/encoder/preprocessing.py). A canvas's own resize uses other filters, and so other
// captions would come out.

import { reduced } from "./reduction.js";
import { halfToEven } from "./rounding.js";

/**
 * @typedef {object} Preprocessing  As in deployable.json.
 * @property {number} image_size
 * @property {string} image_mode
 * @property {number} crop_fraction
 * @property {string} interpolation
 *
 * @typedef {object} Picture  An upright picture, read a few rows at a time.
 * @property {string} [format]  Of its file.
 * @property {number} width
 * @property {number} height
 * @property {(top: number, rows: number) => Uint8ClampedArray | Uint8Array} rows
 *   Red, green, blue and a fourth byte of so many whole rows.
 *
 * @typedef {[left: number, top: number, right: number, bottom: number]} Box
 *
 * @typedef {object} Filter
 * @property {number} support
 * @property {(x: number) => number} weight
 */

const MOST_ELONGATED = 50; // longer side to shorter; beyond it the far ends are left out first
const DRAFT_MARGIN = 1.35; // times the size after the resize, which a JPEG is reduced to at least
const PRECISION_BITS = 32 - 8 - 2; // of a weight, as an integer
const HALF = 1 << (PRECISION_BITS - 1);
const ROWS_AT_ONCE = 64;
const CHANNELS = 3;

/** @type {Record<string, Filter>} */
const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: bicubic },
  lanczos: { support: 3, weight: (x) => (-3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/**
 * Returns the pixels that the encoder sees, [image_size, image_size, 3].
 *
 * @param {Picture} picture
 * @param {Preprocessing} preprocessing
 * @returns {Uint8Array}
 */
export function prepare(picture, preprocessing) {
  const { image_size: side, image_mode: mode, interpolation } = preprocessing;
  if (mode !== "crop" && mode !== "squash") {
    throw new RangeError(`no photograph can be prepared in the mode ${mode}`);
  }
  const isElongated = Math.max(picture.width, picture.height)
    > MOST_ELONGATED * Math.min(picture.width, picture.height);
  const least = sizeBeforeCrop(picture, preprocessing)
    .map((length) => Math.ceil(DRAFT_MARGIN * length));
  const read = picture.format === "JPEG" && !isElongated
    ? reduced(picture, least[0], least[1])
    : picture;
  const seen = mode === "crop" ? withoutFarEnds(read) : read;
  const [width, height] = sizeBeforeCrop(seen, preprocessing);
  return centre(resize(seen, width, height, interpolation), side);
}

/**
 * Returns the width and height that a picture is resized to.
 *
 * @param {Picture} picture
 * @param {Preprocessing} preprocessing
 */
function sizeBeforeCrop({ width, height }, preprocessing) {
  const short = Math.floor(preprocessing.image_size / preprocessing.crop_fraction);
  if (preprocessing.image_mode === "squash") return [short, short];
  return width <= height
    ? [short, Math.trunc((short * height) / width)]
    : [Math.trunc((short * width) / height), short];
}

/**
 * Returns the part of a picture that the encoder sees, as fractions of it.
 *
 * @param {Preprocessing} preprocessing
 * @param {number} width
 * @param {number} height
 * @returns {Box}
 */
export function seenBox(preprocessing, width, height) {
  const kept = preprocessing.image_size / Math.floor(preprocessing.image_size / preprocessing.crop_fraction);
  let [wide, high] = [kept, kept];
  if (preprocessing.image_mode === "crop") {
    const short = Math.min(width, height);
    [wide, high] = [(kept * short) / width, (kept * short) / height];
  }
  return [(1 - wide) / 2, (1 - high) / 2, (1 + wide) / 2, (1 + high) / 2];
}

/** @typedef {{width: number, height: number, pixels: Uint8Array}} Resized */

/**
 * Resizes as Pillow does: rows, then columns, each rounded to 8 bits; or columns first where that
 * leaves out much more (since Pillow 13).
 *
 * @param {Picture} picture
 * @param {number} width
 * @param {number} height
 * @param {string} interpolation
 * @returns {Resized}
 */
export function resize(picture, width, height, interpolation) {
  if (interpolation === "nearest") return nearest(picture, width, height);
  const filter = FILTERS[interpolation];
  if (!filter) throw new RangeError(`no filter is called ${interpolation}`);
  const across = picture.width === width ? null : weightsOf(filter, picture.width, width);
  const down = picture.height === height ? null : weightsOf(filter, picture.height, height);
  const shorter = picture.height - height;
  const isLoweredFirst = shorter > 0 && shorter > 2 * (picture.width - width);
  const isNarrowedFirst = across !== null && !isLoweredFirst;
  const line = (isNarrowedFirst ? width : picture.width) * CHANNELS;
  const made = new Uint8Array(line * height);
  const sums = new Int32Array(down ? line * height : 0).fill(HALF);
  for (let top = 0; top < picture.height; top += ROWS_AT_ONCE) {
    const count = Math.min(ROWS_AT_ONCE, picture.height - top);
    const strip = withoutFourth(picture.rows(top, count));
    const lines = isNarrowedFirst ? narrow(strip, picture.width, across) : strip;
    if (down) add(lines, line, top, down, sums);
    else made.set(lines, top * line);
  }
  for (let i = 0; i < sums.length; i += 1) made[i] = clipped(sums[i]);
  const pixels = across && !isNarrowedFirst ? narrow(made, picture.width, across) : made;
  return { width, height, pixels };
}

/** @typedef {{starts: Int32Array, counts: Int32Array, most: number, weights: Int32Array}} Weights */

/**
 * Returns which pixels of a line make each pixel of the line after, and their weights.
 *
 * @param {Filter} filter
 * @param {number} before
 * @param {number} after
 * @returns {Weights}
 */
function weightsOf(filter, before, after) {
  const scale = before / after;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  const most = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(after);
  const counts = new Int32Array(after);
  const weights = new Int32Array(after * most);
  const exact = new Float64Array(most);
  for (let place = 0; place < after; place += 1) {
    const middle = (place + 0.5) * scale;
    const start = Math.max(0, Math.trunc(middle - support + 0.5));
    const end = Math.min(before, Math.trunc(middle + support + 0.5));
    let sum = 0;
    for (let x = start; x < end; x += 1) {
      exact[x - start] = filter.weight((x - middle + 0.5) * (1 / stretch));
      sum += exact[x - start];
    }
    for (let i = 0; i < end - start; i += 1) {
      const share = sum === 0 ? exact[i] : exact[i] / sum;
      weights[place * most + i] = Math.trunc(
        (share < 0 ? -0.5 : 0.5) + share * 2 ** PRECISION_BITS,
      );
    }
    starts[place] = start;
    counts[place] = end - start;
  }
  return { starts, counts, most, weights };
}

/**
 * Returns rows as they are after the pass along them.
 *
 * @param {Uint8Array} lines
 * @param {number} width
 * @param {Weights} across
 */
function narrow(lines, width, { starts, counts, most, weights }) {
  const rows = lines.length / (width * CHANNELS);
  const made = new Uint8Array(rows * starts.length * CHANNELS);
  let at = 0;
  for (let row = 0; row < rows; row += 1) {
    for (let place = 0; place < starts.length; place += 1) {
      let [red, green, blue] = [HALF, HALF, HALF];
      let pixel = (row * width + starts[place]) * CHANNELS;
      const first = place * most;
      const last = first + counts[place];
      for (let i = first; i < last; i += 1, pixel += CHANNELS) {
        const weight = weights[i];
        red += lines[pixel] * weight;
        green += lines[pixel + 1] * weight;
        blue += lines[pixel + 2] * weight;
      }
      made[at] = clipped(red);
      made[at + 1] = clipped(green);
      made[at + 2] = clipped(blue);
      at += CHANNELS;
    }
  }
  return made;
}

/**
 * Adds rows, the first of which is the row `top`, to the sums of the rows after the pass down.
 *
 * @param {Uint8Array} lines
 * @param {number} line  Bytes of a row.
 * @param {number} top
 * @param {Weights} down
 * @param {Int32Array} sums
 */
function add(lines, line, top, { starts, counts, most, weights }, sums) {
  const bottom = top + lines.length / line;
  for (let row = 0; row < starts.length; row += 1) {
    const first = Math.max(top, starts[row]);
    const last = Math.min(bottom, starts[row] + counts[row]);
    const to = row * line;
    for (let y = first; y < last; y += 1) {
      const weight = weights[row * most + y - starts[row]];
      const from = (y - top) * line;
      for (let x = 0; x < line; x += 1) sums[to + x] += lines[from + x] * weight;
    }
  }
}

/**
 * @param {Picture} picture
 * @param {number} width
 * @param {number} height
 * @returns {Resized}
 */
function nearest(picture, width, height) {
  const pixels = new Uint8Array(width * height * CHANNELS);
  const columns = placesOf(picture.width, width);
  placesOf(picture.height, height).forEach((from, row) => {
    const line = picture.rows(from, 1);
    columns.forEach((column, x) => {
      pixels.set(line.subarray(4 * column, 4 * column + CHANNELS), (row * width + x) * CHANNELS);
    });
  });
  return { width, height, pixels };
}

/**
 * Returns the pixel of a line that each pixel of the line after is; summed up, as Pillow does.
 *
 * @param {number} before
 * @param {number} after
 */
function placesOf(before, after) {
  const places = [];
  for (let i = 0, middle = 0.5 * (before / after); i < after; i += 1, middle += before / after) {
    places.push(Math.min(before - 1, Math.trunc(middle)));
  }
  return places;
}

/**
 * @param {Picture} picture
 * @returns {Picture}
 */
function withoutFarEnds(picture) {
  const longest = MOST_ELONGATED * Math.min(picture.width, picture.height);
  const width = Math.min(picture.width, longest);
  const height = Math.min(picture.height, longest);
  if (width === picture.width && height === picture.height) return picture;
  const left = halfToEven((picture.width - width) / 2);
  const above = halfToEven((picture.height - height) / 2);
  return {
    width,
    height,
    rows(top, count) {
      const whole = picture.rows(above + top, count);
      const part = new Uint8Array(width * count * 4);
      for (let row = 0; row < count; row += 1) {
        const from = (row * picture.width + left) * 4;
        part.set(whole.subarray(from, from + width * 4), row * width * 4);
      }
      return part;
    },
  };
}

/**
 * Returns the pixels of the square in the middle.
 *
 * @param {Resized} image
 * @param {number} side
 * @returns {Uint8Array}
 */
function centre({ width, height, pixels }, side) {
  if (width === side && height === side) return pixels;
  const left = halfToEven((width - side) / 2);
  const top = halfToEven((height - side) / 2);
  const made = new Uint8Array(side * side * CHANNELS);
  for (let row = 0; row < side; row += 1) {
    const from = ((top + row) * width + left) * CHANNELS;
    made.set(pixels.subarray(from, from + side * CHANNELS), row * side * CHANNELS);
  }
  return made;
}

/** @param {Uint8ClampedArray | Uint8Array} part */
function withoutFourth(part) {
  const made = new Uint8Array((part.length / 4) * CHANNELS);
  for (let from = 0, to = 0; to < made.length; from += 4, to += CHANNELS) {
    made[to] = part[from];
    made[to + 1] = part[from + 1];
    made[to + 2] = part[from + 2];
  }
  return made;
}

/** @param {number} sum */
function clipped(sum) {
  return Math.min(255, Math.max(0, sum >> PRECISION_BITS));
}

/** @param {number} x */
function bicubic(x) {
  const a = -0.5;
  const far = Math.abs(x);
  if (far < 1) return ((a + 2) * far - (a + 3)) * far * far + 1;
  return far < 2 ? (((far - 5) * far + 8) * far - 4) * a : 0;
}

/** @param {number} x */
function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}
