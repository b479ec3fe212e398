// One photograph on the page: its picture, its captions as they stand, and what can be done with
// them. A word that is pointed at, focused or pressed lays its attention over the picture, and on
// what was found in it before the caption was written.

import { AttentionOverlay, whereIsIt } from "./attention_overlay.js";
import { aboutWord, certainty, isUnsure, percent } from "./certainty.js";
import { byId, make, within } from "./elements.js";

const WHOLE = [0, 0, 1, 1];
const SHOWN_DONE_MILLISECONDS = 1600;

/**
 * @typedef {import("./service.js").Answer} Answer
 * @typedef {import("./service.js").Caption} Caption
 * @typedef {import("./service.js").Attribute} Attribute
 *
 * @typedef {object} Problem
 * @property {string} title
 * @property {string} detail
 * @property {string} code
 * @property {boolean} canRetry
 *
 * @typedef {object} Page  What a card asks of the page.
 * @property {(card: Card) => void} onRemove
 * @property {(card: Card) => void} onRetry
 * @property {(words: string) => void} say
 */

export class Card {
  /**
   * @param {File} photograph
   * @param {Page} page
   */
  constructor(photograph, { onRemove, onRetry, say }) {
    this.photograph = photograph;
    this.name = photograph.name || "photograph";
    this.say = say;
    this.onRetry = onRetry;
    /** @type {HTMLButtonElement | null} The word whose light is kept on. */
    this.pressed = null;
    /** @type {WeakMap<Element, () => void>} What shows where a word looked. */
    this.looks = new WeakMap();
    /** @type {AbortController | null} Of the request under way. */
    this.stop = null;
    this.countdown = 0;
    const copy = /** @type {DocumentFragment} */ (byId("card", HTMLTemplateElement).content.cloneNode(true));
    this.element = within(copy, ".photograph");
    const find = (/** @type {string} */ selector) => within(this.element, selector);
    this.frame = find(".frame");
    this.image = within(this.element, "img", HTMLImageElement);
    this.looked = find(".looked");
    this.state = find(".state");
    this.captions = find(".captions");
    this.snippet = find(".snippet");
    this.found = find(".found");
    this.facts = find(".facts");
    find("h3").textContent = this.name;
    find("h3").title = this.name;
    this.overlay = new AttentionOverlay(
      within(this.element, "canvas", HTMLCanvasElement), this.image,
    );
    this.#showPicture();
    const remove = find(".remove");
    remove.setAttribute("aria-label", `Remove ${this.name}`);
    remove.addEventListener("click", () => onRemove(this));
    const copyHtml = find(".copy-html");
    copyHtml.addEventListener("click", () => this.#copySnippet(copyHtml));
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#press(null);
    });
  }

  /** @param {string} words */
  waiting(words) {
    clearInterval(this.countdown);
    this.element.classList.add("busy");
    this.state.className = "state";
    this.state.textContent = words;
  }

  /**
   * Counts the seconds down until the service is asked again.
   *
   * @param {number} seconds
   * @param {Problem} problem
   */
  waitingFor(seconds, problem) {
    const isBusy = problem.code !== "not_ready";
    const reason = isBusy ? "The service is busy" : "The service is not ready yet";
    let left = seconds;
    const words = () => (left > 0 ? `${reason}. Trying again in ${left} s.` : "Trying again …");
    this.waiting(words());
    this.say(`${reason}; ${this.name} is sent again in ${seconds} seconds.`);
    this.countdown = setInterval(() => {
      left -= 1;
      this.state.textContent = words();
      if (left <= 0) clearInterval(this.countdown);
    }, 1000);
  }

  /** @param {Problem} problem */
  failed(problem) {
    clearInterval(this.countdown);
    this.element.classList.remove("busy");
    this.captions.replaceChildren();
    this.snippet.hidden = true;
    this.facts.textContent = "";
    this.found.hidden = true;
    this.#press(null);
    this.image.alt = `${this.name}, without a caption`;
    const title = make("strong", "", sentence(problem.title));
    this.state.className = "state wrong";
    this.state.replaceChildren(title, problem.detail ? sentence(problem.detail) : "");
    if (problem.canRetry) {
      const again = make("button", "quiet again", "Try again");
      again.addEventListener("click", () => this.onRetry(this));
      this.state.append(document.createElement("br"), again);
    }
    this.say(`${this.name}: ${sentence(problem.title)} ${problem.detail || ""}`);
  }

  /** @param {Answer} answer */
  captioned(answer) {
    clearInterval(this.countdown);
    this.element.classList.remove("busy");
    this.state.className = "state";
    this.state.textContent = "";
    this.#press(null);
    this.#showFound(answer.image?.attributes ?? []);
    this.captions.replaceChildren(
      ...answer.captions.map((caption, rank) => this.#caption(caption, rank, answer.image)),
    );
    const best = answer.captions[0].text;
    this.image.alt = `${this.name}: ${sentence(best)}`;
    this.#showSnippet(best);
    this.facts.textContent = facts(answer);
    this.say(`${this.name}: ${sentence(best)}`);
  }

  discard() {
    this.stop?.abort();
    clearInterval(this.countdown);
    this.overlay.hide();
    URL.revokeObjectURL(this.image.src);
    this.element.remove();
  }

  #showPicture() {
    this.image.alt = `${this.name}, not captioned yet`;
    this.image.addEventListener("load", () => {
      const { naturalWidth, naturalHeight } = this.image;
      this.frame.classList.toggle("enlarged", Math.max(naturalWidth, naturalHeight) < 400);
    });
    this.image.addEventListener("error", () => {
      this.frame.classList.add("unseeable");
      this.looked.textContent = "This browser cannot show the picture.";
    });
    this.image.src = URL.createObjectURL(this.photograph);
  }

  /**
   * @param {Caption} caption
   * @param {number} rank
   * @param {Answer["image"]} image
   */
  #caption(caption, rank, image) {
    const words = make("p", "words");
    words.setAttribute("role", "toolbar");
    words.setAttribute("aria-label", `Caption ${rank + 1}: ${caption.text}`);
    const tokens = caption.tokens?.length ? caption.tokens : caption.text.split(" ");
    const buttons = tokens.map((token, place) => this.#word(token, place, caption, image));
    buttons.forEach((button, place) => {
      button.tabIndex = place === 0 ? 0 : -1;
      words.append(place ? " " : "", button);
    });
    words.addEventListener("keydown", (event) => walk(event, buttons));
    words.addEventListener("mouseleave", () => this.#rest());

    const copy = make("button", "quiet copy", "Copy");
    const html = make("button", "quiet", "Alt text");
    copy.setAttribute("aria-label", `Copy caption ${rank + 1}`);
    html.setAttribute("aria-label", `Caption ${rank + 1} as alt text in HTML`);
    copy.addEventListener("click", () => this.#copy(sentence(caption.text), copy, "The caption"));
    html.addEventListener("click", () => {
      this.#showSnippet(caption.text);
      this.#copySnippet(html);
    });
    const about = make("div", "about");
    about.append(certainty(caption), copy, html);
    const line = make("li", rank === 0 ? "caption best" : "caption");
    line.append(words, about);
    return line;
  }

  /**
   * @param {string} token
   * @param {number} place
   * @param {Caption} caption
   * @param {Answer["image"]} image
   */
  #word(token, place, caption, image) {
    const grid = caption.attention?.[place]?.length ? caption.attention[place] : null;
    const where = grid ? whereIsIt(grid) : "";
    const note = aboutWord(caption, place, image?.attributes ?? [], where);
    const button = make("button", note ? "word looks" : "word", token);
    if (!note) return button;
    const probability = caption.word_probabilities?.[place];
    if (isUnsure(probability)) {
      button.classList.add("unsure");
      button.title = `only ${percent(probability)} sure`;
    }
    const look = () => {
      if (grid) this.overlay.show(grid, image?.seen || WHOLE);
      else this.overlay.hide();
      this.#weigh(caption.attribute_attention?.[place] ?? []);
      this.looked.textContent = `“${token}”: ${note}`;
    };
    button.setAttribute("aria-pressed", "false");
    this.looks.set(button, look);
    button.addEventListener("mouseenter", look);
    button.addEventListener("focus", look);
    button.addEventListener("blur", () => this.#rest());
    button.addEventListener("click", () => this.#press(this.pressed === button ? null : button));
    return button;
  }

  /**
   * Keeps the light of one word on until another is pressed; null lets go.
   *
   * @param {HTMLButtonElement | null} button
   */
  #press(button) {
    this.pressed?.setAttribute("aria-pressed", "false");
    this.pressed = button;
    button?.setAttribute("aria-pressed", "true");
    this.#look(button);
  }

  #rest() {
    this.#look(this.pressed || this.captions.querySelector(".word:focus-visible"));
  }

  /** @param {Element | null} word */
  #look(word) {
    const look = word && this.looks.get(word);
    if (look) look();
    else this.#darken();
  }

  /**
   * Lists what was found in the picture, each with a bar for how much of a word's look it has.
   *
   * @param {Attribute[]} attributes
   */
  #showFound(attributes) {
    this.found.hidden = !attributes.length;
    within(this.found, "ul").replaceChildren(...attributes.map(({ word, probability }) => {
      const item = make("li", "", `${word} ${percent(probability)}`);
      item.append(make("span", "share"));
      return item;
    }));
  }

  /** @param {number[]} shares  Of a word's look, for each attribute. */
  #weigh(shares) {
    this.found.querySelectorAll(".share").forEach((bar, number) => {
      /** @type {HTMLElement} */ (bar).style.width = `${100 * (shares[number] ?? 0)}%`;
    });
  }

  #darken() {
    this.overlay.hide();
    this.#weigh([]);
    if (!this.frame.classList.contains("unseeable")) this.looked.textContent = "";
  }

  /** @param {string} text */
  #showSnippet(text) {
    const code = within(this.snippet, "code");
    code.textContent = `<img src="${escaped(this.name)}" alt="${escaped(sentence(text))}">`;
    this.snippet.hidden = false;
  }

  /** @param {HTMLElement} button */
  #copySnippet(button) {
    this.#copy(within(this.snippet, "code").textContent ?? "", button, "The alt text");
  }

  /**
   * @param {string} text
   * @param {HTMLElement} button
   * @param {string} what
   */
  async #copy(text, button, what) {
    const words = button.dataset.words || (button.textContent ?? "");
    button.dataset.words = words;
    const done = await toClipboard(text);
    button.textContent = done ? "Copied" : "Not copied";
    this.say(done ? `${what} is in the clipboard.` : "The browser does not allow copying here.");
    setTimeout(() => { button.textContent = words; }, SHOWN_DONE_MILLISECONDS);
  }
}

/**
 * Arrow keys, Home and End move along the words; the row is one stop of the Tab key.
 *
 * @param {KeyboardEvent} event
 * @param {HTMLButtonElement[]} buttons
 */
function walk(event, buttons) {
  const here = buttons.findIndex((button) => button === event.target);
  /** @type {Record<string, number>} */
  const places = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: buttons.length - 1 };
  if (here < 0 || !(event.key in places)) return;
  event.preventDefault();
  const next = buttons[(places[event.key] + buttons.length) % buttons.length];
  for (const button of buttons) button.tabIndex = button === next ? 0 : -1;
  next.focus();
}

/** @param {Answer} answer */
function facts({ model, image, timing_ms: timing }) {
  const parts = [];
  if (image) parts.push(`${image.format} ${image.width} × ${image.height}`);
  if (timing) parts.push(`${(timing.total / 1000).toFixed(2)} s`);
  if (model) parts.push(`model ${model.name}`);
  return parts.join(" · ");
}

/** @param {string} text */
async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Pages that did not come over HTTPS have no clipboard of their own.
    const area = make("textarea", "unseen", text);
    document.body.append(area);
    const before = document.activeElement;
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (before instanceof HTMLElement) before.focus();
    return done;
  }
}

/** @param {string} text */
function sentence(text) {
  const trimmed = text.trim();
  const end = /[.!?…]$/.test(trimmed) ? "" : ".";
  return trimmed ? trimmed[0].toUpperCase() + trimmed.slice(1) + end : "";
}

/** @param {string} text */
function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll('"', "&quot;").replaceAll("<", "&lt;");
}
