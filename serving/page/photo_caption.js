// <photo-caption>: an input of files that writes the alt text of the picture that is put in.
//
//   <photo-caption for="alt"><input type="file" name="photo" accept="image/*"></photo-caption>
//   <textarea id="alt" name="alt"></textarea>
//
// A picture may be chosen or dropped on the element. Attributes: `for`, the id of the field that
// gets the caption, and until then loses that of the picture before, unless a person has written
// something of their own there; `model`, the folder that `captioner export --web` wrote (default:
// the folder of this file); `captions`, how many are found (default 1); `preload`, to fetch the
// model before there is a picture. Events: `captions`, with the captions as `detail`, and
// `problem`, with the error. Without JavaScript the input stays.

import { Captioner, CaptionerError } from "./captioner.js";

/** @type {Map<string, Promise<Captioner>>} One model for all elements of a page. */
const models = new Map();

export class PhotoCaption extends HTMLElement {
  #status = document.createElement("output");
  #written = ""; // what stands in the field of ours
  /** @type {AbortController | null} */
  #stop = null;

  connectedCallback() {
    if (!this.#status.isConnected) this.append(this.#status);
    this.addEventListener("change", this);
    this.addEventListener("dragover", this);
    this.addEventListener("drop", this);
    if (this.hasAttribute("preload")) this.#model().catch(() => {});
  }

  disconnectedCallback() {
    this.#stop?.abort();
    for (const kind of ["change", "dragover", "drop"]) this.removeEventListener(kind, this);
  }

  /** @param {Event} event */
  handleEvent(event) {
    if (event.type !== "change") event.preventDefault(); // else a drop would leave the page
    if (event.type === "drop") {
      const files = /** @type {DragEvent} */ (event).dataTransfer?.files;
      if (!files?.length) return;
      if (this.input) this.input.files = files;
      this.caption(files[0]);
    } else if (event.type === "change" && this.input?.files?.length) {
      this.caption(this.input.files[0]);
    }
  }

  get input() {
    return /** @type {HTMLInputElement | null} */ (this.querySelector("input[type=file]"));
  }

  get field() {
    const root = /** @type {Document | ShadowRoot} */ (this.getRootNode());
    const name = this.getAttribute("for");
    return /** @type {HTMLTextAreaElement | null} */ (name ? root.getElementById(name) : null);
  }

  /**
   * Captions a picture as if it had been put in; a picture before it is given up.
   *
   * @param {Blob} picture
   */
  async caption(picture) {
    this.#stop?.abort();
    const stop = new AbortController();
    this.#stop = stop;
    this.#fill(""); // a form that is sent now must not describe the picture before
    /** @type {Promise<Captioner> | null} */
    let model = null;
    try {
      model = this.#model();
      const captioner = await model;
      stop.signal.throwIfAborted();
      this.#say("Looking …");
      const numCaptions = Number(this.getAttribute("captions") ?? 1);
      const captions = await captioner.caption(picture, { numCaptions, signal: stop.signal });
      const { text } = captions[0];
      this.#fill(`${text[0].toUpperCase()}${text.slice(1)}.`);
      this.#say("");
      this.dispatchEvent(new CustomEvent("captions", { detail: captions, bubbles: true }));
    } catch (error) {
      if (model && error instanceof CaptionerError && error.code === "stopped") forget(model);
      if (stop.signal.aborted) return;
      this.#say(error instanceof CaptionerError ? error.message : "The picture cannot be captioned.");
      this.dispatchEvent(new CustomEvent("problem", { detail: error, bubbles: true }));
    }
  }

  #model() {
    const own = this.getAttribute("model");
    const folder = new URL(own ?? "./", own === null ? import.meta.url : document.baseURI).href;
    let model = models.get(folder);
    if (!model) {
      model = Captioner.load(folder, {
        onProgress: ({ loaded, total }) => {
          this.#say(`Fetching the model once: ${(loaded / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB`);
        },
      });
      model.then(() => this.#say(""), () => models.delete(folder)); // the next picture tries again
      models.set(folder, model);
    }
    return model;
  }

  /** @param {string} text */
  #fill(text) {
    const { field } = this;
    if (!field || (field.value && field.value !== this.#written)) return;
    this.#written = text;
    if (field.value === text) return;
    field.value = text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }

  /** @param {string} words */
  #say(words) {
    this.#status.textContent = words;
  }
}

/** @param {Promise<Captioner>} model  That has stopped; the next picture loads another. */
function forget(model) {
  for (const [folder, one] of models) if (one === model) models.delete(folder);
}

customElements.define("photo-caption", PhotoCaption);
