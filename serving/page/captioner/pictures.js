// Pictures as people see them: decoded by the browser, upright, opaque. Colours are left as the
// file stores them, as the library leaves them.

import { CaptionerError } from "./errors.js";

const PIXEL_LIMIT = 89_478_485; // the library's
const PAPER = "#fff"; // what shows through a transparent pixel
const ROWS_AT_ONCE = 64; // drawn at a time: a whole photograph would take four bytes for each pixel
const HEAD_BYTES = 32;

/** @typedef {import("./preprocessing.js").Picture} Picture */

/**
 * Opens a picture, which is to be closed when it has been read.
 *
 * @param {Blob} blob
 * @returns {Promise<Picture & {format: string, close: () => void}>}
 */
export async function openPicture(blob) {
  const format = formatOf(new Uint8Array(await blob.slice(0, HEAD_BYTES).arrayBuffer()));
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
    });
  } catch {
    throw undecodable(format);
  }
  const { width, height } = bitmap;
  if (width * height > PIXEL_LIMIT) {
    bitmap.close();
    throw new CaptionerError(
      "The image is too large",
      `It has ${width} × ${height} pixels, and ${PIXEL_LIMIT.toLocaleString("en")} are the limit. Make it smaller first.`,
      "image_too_large",
    );
  }
  const canvas = new OffscreenCanvas(width, Math.min(height, ROWS_AT_ONCE));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw undecodable(format);
  return {
    format,
    width,
    height,
    rows(top, count) {
      context.fillStyle = PAPER;
      context.fillRect(0, 0, width, count);
      context.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
      return context.getImageData(0, 0, width, count).data;
    },
    close: () => bitmap.close(),
  };
}

/** @param {Uint8Array} head */
function formatOf(head) {
  const text = String.fromCharCode(...head);
  if (text.startsWith("\xff\xd8\xff")) return "JPEG";
  if (text.startsWith("\x89PNG\r\n\x1a\n")) return "PNG";
  if (text.startsWith("GIF8")) return "GIF";
  if (text.startsWith("BM")) return "BMP";
  if (text.startsWith("II*\0") || text.startsWith("MM\0*")) return "TIFF";
  if (text.slice(0, 4) === "RIFF" && text.slice(8, 12) === "WEBP") return "WEBP";
  if (text.slice(4, 8) === "ftyp") {
    return /^(avif|avis)/.test(text.slice(8, 12)) ? "AVIF" : /^(hei|hev|mif1|msf1)/.test(text.slice(8, 12)) ? "HEIC" : "";
  }
  return "";
}

/** @param {string} format */
function undecodable(format) {
  if (["JPEG", "PNG", "GIF", "WEBP", "BMP"].includes(format)) {
    return new CaptionerError(
      "The image cannot be decoded",
      `It is a ${format} that is damaged or incomplete. Fetch it again, or save it anew.`,
      "corrupt_image",
    );
  }
  return new CaptionerError(
    "The format is not supported",
    format
      ? `This browser cannot read ${format}. Save the picture as JPEG or PNG first.`
      : "This is no picture that the browser can read. Choose a JPEG or a PNG.",
    "unsupported_format",
  );
}
