// The attention of a word as light on a darkened photograph, as Xu et al. 2015 show it: even
// attention over the whole grid is dim, three times as much or more leaves the picture as it is.

const LONGER_SIDE = 192; // pixels of the canvas; the browser smooths it up to the picture's size
const DARKNESS = 0.74;
const FULL_LIGHT = 3.0;
const GAMMA = 0.7;
const FADE_MILLISECONDS = 140;
const ROWS = ["upper", "middle", "lower"];
const COLUMNS = ["left", "centre", "right"];
const EVEN_SHARE = 0.17; // of a ninth of the picture, where an even look gives 0.11

/** @typedef {number[]} Box  Left, top, right and bottom, as fractions of the picture. */

export class AttentionOverlay {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {HTMLImageElement} image
   */
  constructor(canvas, image) {
    this.canvas = canvas;
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    this.image = image;
    /** @type {Float32Array | null} */
    this.shown = null;
    this.frame = 0;
  }

  /**
   * Lays weights over the part of the picture that the model saw.
   *
   * @param {number[][]} grid  [rows][columns]
   * @param {Box} box
   */
  show(grid, box) {
    const wanted = this.#lightOf(grid, box);
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    cancelAnimationFrame(this.frame);
    const from = this.shown;
    if (still || !from || from.length !== wanted.length) {
      this.#draw(wanted, box);
    } else {
      const start = performance.now();
      const step = (/** @type {number} */ now) => {
        const part = Math.min(1, Math.max(0, now - start) / FADE_MILLISECONDS);
        const eased = part * (2 - part);
        this.#draw(wanted.map((light, i) => from[i] + (light - from[i]) * eased), box);
        if (part < 1) this.frame = requestAnimationFrame(step);
      };
      this.frame = requestAnimationFrame(step);
    }
    this.canvas.parentElement?.classList.add("lit");
  }

  hide() {
    cancelAnimationFrame(this.frame);
    this.canvas.parentElement?.classList.remove("lit");
  }

  /**
   * Returns how light each pixel of the canvas is, from 0 to 1.
   *
   * @param {number[][]} grid
   * @param {Box} box
   */
  #lightOf(grid, [left, top, right, bottom]) {
    const scale = LONGER_SIDE / Math.max(this.image.naturalWidth, this.image.naturalHeight);
    const width = Math.max(1, Math.round(this.image.naturalWidth * scale));
    const height = Math.max(1, Math.round(this.image.naturalHeight * scale));
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const rows = grid.length;
    const columns = grid[0].length;
    const full = Math.max(Math.min(1, FULL_LIGHT / (rows * columns)), ...grid.flat());
    const across = places(width, left, right, columns);
    const down = places(height, top, bottom, rows);
    const light = new Float32Array(width * height);
    down.forEach((ofLine, y) => across.forEach((ofPixel, x) => {
      if (!ofLine || !ofPixel) return;
      let sum = 0;
      for (const [row, ofRow] of ofLine) {
        for (const [column, ofColumn] of ofPixel) sum += ofRow * ofColumn * grid[row][column];
      }
      light[y * width + x] = Math.min(1, Math.max(0, sum / full)) ** GAMMA;
    }));
    return light;
  }

  /**
   * @param {Float32Array} light
   * @param {Box} box
   */
  #draw(light, [left, top, right, bottom]) {
    const { context, canvas: { width, height } } = this;
    const shade = context.createImageData(width, height);
    for (let i = 0; i < light.length; i += 1) {
      shade.data.set([12, 11, 10, 255 * DARKNESS * (1 - light[i])], 4 * i);
    }
    context.putImageData(shade, 0, 0);
    if (left > 0 || top > 0 || right < 1 || bottom < 1) {
      context.strokeStyle = "rgb(255 255 255 / 0.28)";
      context.strokeRect(
        left * width + 0.5, top * height + 0.5,
        (right - left) * width - 1, (bottom - top) * height - 1,
      );
    }
    this.shown = light;
  }
}

/**
 * Says where the weights are, for those who do not see the light.
 *
 * @param {number[][]} grid  [rows][columns]
 */
export function whereIsIt(grid) {
  const shares = Array.from({ length: 3 }, () => [0, 0, 0]);
  grid.forEach((line, row) => line.forEach((weight, column) => {
    const third = (/** @type {number} */ place, /** @type {number} */ count) => (
      Math.min(2, Math.floor((3 * (place + 0.5)) / count)));
    shares[third(row, grid.length)][third(column, line.length)] += weight;
  }));
  const most = Math.max(...shares.flat());
  if (most < EVEN_SHARE) return "all over the picture";
  const row = shares.findIndex((line) => line.includes(most));
  const column = shares[row].indexOf(most);
  const place = row === 1 && column === 1 ? "centre" : `${ROWS[row]} ${COLUMNS[column]}`;
  return `mostly at the ${place}`;
}

/**
 * Returns for every pixel of a side the cells that light it and how much each counts (cubic
 * interpolation between the cells' middles); null for pixels that the model did not see.
 *
 * @param {number} pixels
 * @param {number} start
 * @param {number} end
 * @param {number} cells
 */
function places(pixels, start, end, cells) {
  return Array.from({ length: pixels }, (_, pixel) => {
    const inside = ((pixel + 0.5) / pixels - start) / (end - start);
    if (inside < 0 || inside > 1) return null;
    const place = inside * cells - 0.5;
    const before = Math.floor(place);
    const part = place - before;
    return [-1, 0, 1, 2].map((offset) => [
      Math.min(cells - 1, Math.max(0, before + offset)),
      cubic(Math.abs(offset - part)),
    ]);
  });
}

/** @param {number} distance */
function cubic(distance) {
  if (distance >= 2) return 0;
  if (distance >= 1) return ((-0.5 * distance + 2.5) * distance - 4) * distance + 2;
  return (1.5 * distance - 2.5) * distance * distance + 1;
}
