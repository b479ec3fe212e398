// One photograph on the page: its picture, its captions as they stand, and what can be done with
// them. A word that is pointed at, focused or pressed lays its attention over the picture.

import { AttentionOverlay, whereIsIt } from "./attention_overlay.js";

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
    const box = answer.image?.seen || WHOLE;
    const most = Math.max(...answer.captions.map((caption) => caption.probability));
    this.captions.replaceChildren(
      ...answer.captions.map((caption, rank) => this.#caption(caption, rank, most, box)),
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

  #caption(caption, rank, most, box) {
    const words = make("p", "words");
    words.setAttribute("role", "toolbar");
    words.setAttribute("aria-label", `Caption ${rank + 1}: ${caption.text}`);
    const tokens = caption.tokens?.length ? caption.tokens : caption.text.split(" ");
    const buttons = tokens.map((token, place) => {
      const grid = caption.attention?.[place];
      return this.#word(token, grid?.length ? grid : null, box);
    });
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
    about.append(likelihood(caption.probability, most), copy, html);
    const line = make("li", rank === 0 ? "caption best" : "caption");
    line.append(words, about);
    return line;
  }

  #word(token, grid, box) {
    const button = make("button", grid ? "word looks" : "word", token);
    if (!grid) return button;
    button.look = () => {
      this.overlay.show(grid, box);
      this.looked.textContent = `“${token}”: ${whereIsIt(grid)}`;
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

  #darken() {
    this.overlay.hide();
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

function likelihood(probability, most) {
  const wide = Math.max(1, Math.round((100 * probability) / most));
  const bar = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const part = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  bar.setAttribute("viewBox", "0 0 100 4");
  bar.setAttribute("preserveAspectRatio", "none");
  bar.setAttribute("aria-hidden", "true");
  part.setAttribute("height", "4");
  part.setAttribute("width", String(wide));
  bar.append(part);
  const line = make("span", "likely");
  const text = make("span", "", chance(probability));
  text.title = "The probability that the model gives to exactly this caption";
  line.append(bar, text);
  return line;
}

// Whole captions are improbable, however good: what no percentage can show is said as "1 in N".
function chance(probability) {
  const precision = { maximumSignificantDigits: 2 };
  if (probability >= 0.001) {
    return `${(100 * probability).toLocaleString("en", precision)} %`;
  }
  const rarity = { ...precision, notation: "compact", compactDisplay: "long" };
  return probability > 0 ? `1 in ${(1 / probability).toLocaleString("en", rarity)}` : "nearly 0 %";
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
