// One photograph on the page: its picture, its captions as they stand, and what can be done with
// them. A word that is pointed at, focused or pressed lays its attention over the picture, and on
// what was found in it before the caption was written.

import { AttentionOverlay, whereIsIt } from "./attention_overlay.js";
import { aboutWord, certainty, isUnsure, percent } from "./certainty.js";

const WHOLE = [0, 0, 1, 1];
const SHOWN_DONE_MILLISECONDS = 1600;

export class Card {
  constructor(photograph, { onRemove, onRetry, say }) {
    this.photograph = photograph;
    this.name = photograph.name || "photograph";
    this.say = say;
    this.onRetry = onRetry;
    this.pressed = null;
    this.stop = null; // the AbortController of the request under way
    this.countdown = 0;
    const copy = document.getElementById("card").content.cloneNode(true);
    this.element = copy.firstElementChild;
    const find = (selector) => this.element.querySelector(selector);
    this.frame = find(".frame");
    this.image = find("img");
    this.looked = find(".looked");
    this.state = find(".state");
    this.captions = find(".captions");
    this.snippet = find(".snippet");
    this.found = find(".found");
    this.facts = find(".facts");
    find("h3").textContent = this.name;
    find("h3").title = this.name;
    this.overlay = new AttentionOverlay(find("canvas"), this.image);
    this.#showPicture();
    const remove = find(".remove");
    remove.setAttribute("aria-label", `Remove ${this.name}`);
    remove.addEventListener("click", () => onRemove(this));
    find(".copy-html").addEventListener("click", (event) => {
      this.#copy(find("code").textContent, event.currentTarget, "The alt text");
    });
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#press(null);
    });
  }

  waiting(words) {
    clearInterval(this.countdown);
    this.element.classList.add("busy");
    this.state.className = "state";
    this.state.textContent = words;
  }

  // Counts the seconds down until the service is asked again.
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
      this.#copy(this.snippet.querySelector("code").textContent, html, "The alt text");
    });
    const about = make("div", "about");
    about.append(certainty(caption), copy, html);
    const line = make("li", rank === 0 ? "caption best" : "caption");
    line.append(words, about);
    return line;
  }

  #word(token, place, caption, image) {
    const grid = caption.attention?.[place]?.length ? caption.attention[place] : null;
    const where = grid ? whereIsIt(grid) : "";
    const note = aboutWord(caption, place, image?.attributes ?? [], where);
    const button = make("button", note ? "word looks" : "word", token);
    if (!note) return button;
    if (isUnsure(caption.word_probabilities?.[place])) {
      button.classList.add("unsure");
      button.title = `only ${percent(caption.word_probabilities[place])} sure`;
    }
    button.look = () => {
      if (grid) this.overlay.show(grid, image?.seen || WHOLE);
      else this.overlay.hide();
      this.#weigh(caption.attribute_attention?.[place] ?? []);
      this.looked.textContent = `“${token}”: ${note}`;
    };
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("mouseenter", button.look);
    button.addEventListener("focus", button.look);
    button.addEventListener("blur", () => this.#rest());
    button.addEventListener("click", () => this.#press(this.pressed === button ? null : button));
    return button;
  }

  // Keeps the light of one word on until another is pressed; null lets go.
  #press(button) {
    this.pressed?.setAttribute("aria-pressed", "false");
    this.pressed = button;
    button?.setAttribute("aria-pressed", "true");
    if (button) button.look();
    else this.#darken();
  }

  #rest() {
    const focused = this.captions.querySelector(".word:focus-visible");
    const kept = this.pressed || focused;
    if (kept?.look) kept.look();
    else this.#darken();
  }

  // Lists what was found in the picture, each with a bar for how much of a word's look it has.
  #showFound(attributes) {
    this.found.hidden = !attributes.length;
    this.found.querySelector("ul").replaceChildren(...attributes.map(({ word, probability }) => {
      const item = make("li", "", `${word} ${percent(probability)}`);
      item.append(make("span", "share"));
      return item;
    }));
  }

  #weigh(shares) {
    this.found.querySelectorAll(".share").forEach((bar, number) => {
      bar.style.width = `${100 * (shares[number] ?? 0)}%`;
    });
  }

  #darken() {
    this.overlay.hide();
    this.#weigh([]);
    if (!this.frame.classList.contains("unseeable")) this.looked.textContent = "";
  }

  #showSnippet(text) {
    const code = this.snippet.querySelector("code");
    code.textContent = `<img src="${escaped(this.name)}" alt="${escaped(sentence(text))}">`;
    this.snippet.hidden = false;
  }

  async #copy(text, button, what) {
    const words = button.dataset.words || button.textContent;
    button.dataset.words = words;
    const done = await toClipboard(text);
    button.textContent = done ? "Copied" : "Not copied";
    this.say(done ? `${what} is in the clipboard.` : "The browser does not allow copying here.");
    setTimeout(() => { button.textContent = words; }, SHOWN_DONE_MILLISECONDS);
  }
}

// Arrow keys, Home and End move along the words; the row is one stop of the Tab key.
function walk(event, buttons) {
  const here = buttons.indexOf(event.target);
  const places = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: buttons.length - 1 };
  if (here < 0 || !(event.key in places)) return;
  event.preventDefault();
  const next = buttons[(places[event.key] + buttons.length) % buttons.length];
  for (const button of buttons) button.tabIndex = button === next ? 0 : -1;
  next.focus();
}

function facts({ model, image, timing_ms: timing }) {
  const parts = [];
  if (image) parts.push(`${image.format} ${image.width} × ${image.height}`);
  if (timing) parts.push(`${(timing.total / 1000).toFixed(2)} s`);
  if (model) parts.push(`model ${model.name}`);
  return parts.join(" · ");
}

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
    before?.focus();
    return done;
  }
}

function sentence(text) {
  const trimmed = text.trim();
  const end = /[.!?…]$/.test(trimmed) ? "" : ".";
  return trimmed ? trimmed[0].toUpperCase() + trimmed.slice(1) + end : "";
}

function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll('"', "&quot;").replaceAll("<", "&lt;");
}

function make(tag, className, text = "") {
  const element = document.createElement(tag);
  if (tag === "button") element.type = "button"; // it must not send a form
  if (className) element.className = className;
  element.textContent = text;
  return element;
}
