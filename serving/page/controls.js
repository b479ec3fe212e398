// The controls of the page: what captions are asked for. Those that cannot go together keep each
// other in order; what stands as it was found is not asked for.

import { byId } from "./elements.js";

const SETTLE_MILLISECONDS = 350; // a slider at rest for so long means what it says
const WIDEST_BEAM = 10;
/** @type {Record<string, string>} The control of each of the service's options. */
const FIELDS = {
  num_captions: "count", beam_size: "beam", include: "include", exclude: "exclude",
  no_repeat_ngram: "repeat", repeat_words: "again", diverse_groups: "groups", sample: "draw",
  temperature: "temperature",
};

const input = (/** @type {string} */ id) => byId(id, HTMLInputElement);

export class Controls {
  #count = input("count");
  #beam = input("beam");
  #groups = input("groups");
  #repeat = byId("repeat", HTMLSelectElement);
  #again = input("again");
  #draw = input("draw");
  #temperature = input("temperature");
  #include = input("include");
  #exclude = input("exclude");
  #more = byId("more", HTMLDetailsElement);
  #settling = 0;

  /** @param {() => void} onChange  Called when a change has settled. */
  constructor(onChange) {
    this.onChange = onChange;
    const quick = [this.#count, this.#beam, this.#groups, this.#repeat, this.#again, this.#draw,
      this.#temperature];
    for (const control of quick) {
      control.addEventListener("input", () => {
        this.#arrange(control);
        this.#changed();
      });
    }
    for (const field of [this.#include, this.#exclude]) {
      // Half a word is none: it is asked for when Enter is pressed or the field is left.
      field.addEventListener("change", () => this.#changed());
    }
    this.#arrange(this.#beam); // a reloaded page keeps what was set
  }

  /** The options of a request, as `captionsOf` takes them. */
  get options() {
    /** @type {import("./service.js").Asked} */
    const options = { beamSize: Number(this.#beam.value), count: Number(this.#count.value) };
    const isDrawn = this.#draw.checked;
    const [include, exclude] = [wordsIn(this.#include), wordsIn(this.#exclude)];
    if (include.length && !isDrawn) options.include = include;
    if (exclude.length) options.exclude = exclude;
    if (this.#repeat.value !== "0") options.noRepeatNgram = Number(this.#repeat.value);
    if (this.#again.checked) options.repeatWords = true;
    if (this.#groups.value !== "1" && !isDrawn) options.diverseGroups = Number(this.#groups.value);
    if (isDrawn) Object.assign(options, { sample: true, temperature: Number(this.#temperature.value) });
    return options;
  }

  /**
   * Marks the control that a refused request names.
   *
   * @param {string | null} parameter  The service's name of the option.
   */
  mark(parameter) {
    for (const [name, id] of Object.entries(FIELDS)) {
      if (name === parameter) byId(id).setAttribute("aria-invalid", "true");
      else byId(id).removeAttribute("aria-invalid");
    }
    if (this.#more.querySelector("[aria-invalid]")) this.#more.open = true;
  }

  #changed() {
    this.mark(null);
    clearTimeout(this.#settling);
    this.#settling = setTimeout(this.onChange, SETTLE_MILLISECONDS);
  }

  /**
   * A beam of N holds no more than N captions, and is cut into equal groups.
   *
   * @param {HTMLElement} changed
   */
  #arrange(changed) {
    const [count, beam, groups] = [this.#count, this.#beam, this.#groups];
    const isDrawn = this.#draw.checked;
    this.#include.disabled = groups.disabled = isDrawn;
    this.#temperature.disabled = !isDrawn;
    const parts = isDrawn ? 1 : Number(groups.value);
    let width = Number(beam.value);
    if (changed === count) width = Math.max(width, Number(count.value));
    width = Math.min(WIDEST_BEAM - (WIDEST_BEAM % parts), Math.ceil(width / parts) * parts);
    beam.value = String(width);
    count.value = String(Math.min(Number(count.value), width));
    for (const slider of [count, beam, groups]) byId(`${slider.id}-shown`).textContent = slider.value;
    byId("temperature-shown").textContent = Number(this.#temperature.value).toFixed(1);
  }
}

/** @param {HTMLInputElement} field */
function wordsIn(field) {
  return field.value.split(/[\s,]+/).filter((word) => word);
}
