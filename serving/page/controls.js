// The controls of the page: what captions are asked for. Those that cannot go together keep each
// other in order; what stands as it was found is not asked for. Drawing is not on every page.

const SETTLE_MILLISECONDS = 350; // a slider at rest for so long means what it says
const WIDEST_BEAM = 10;
const FIELDS = {
  num_captions: "count", beam_size: "beam", include: "include", exclude: "exclude",
  no_repeat_ngram: "repeat", repeat_words: "again", diverse_groups: "groups", sample: "draw",
  temperature: "temperature",
};

const byId = (id) => document.getElementById(id);

export class Controls {
  // `onChange` is called when a change has settled.
  constructor(onChange) {
    this.onChange = onChange;
    this.settling = 0;
    for (const id of ["count", "beam", "groups", "temperature", "repeat", "again", "draw"]) {
      byId(id)?.addEventListener("input", (event) => {
        this.#arrange(event.target);
        this.#changed();
      });
    }
    for (const id of ["include", "exclude"]) {
      // Half a word is none: it is asked for when Enter is pressed or the field is left.
      byId(id).addEventListener("change", () => this.#changed());
    }
    this.#arrange(byId("beam")); // a reloaded page keeps what was set
  }

  // The options of a request, as `captionsOf` takes them.
  get options() {
    const options = { beamSize: Number(byId("beam").value), count: Number(byId("count").value) };
    const isDrawn = isDrawing();
    const words = { include: wordsIn("include"), exclude: wordsIn("exclude") };
    if (words.include.length && !isDrawn) options.include = words.include;
    if (words.exclude.length) options.exclude = words.exclude;
    if (byId("repeat").value !== "0") options.noRepeatNgram = Number(byId("repeat").value);
    if (byId("again").checked) options.repeatWords = true;
    if (byId("groups").value !== "1" && !isDrawn) options.diverseGroups = Number(byId("groups").value);
    if (isDrawn) Object.assign(options, { sample: true, temperature: Number(byId("temperature").value) });
    return options;
  }

  // Marks the control that a refused request names, by the name that the service has for it.
  mark(parameter) {
    for (const [name, id] of Object.entries(FIELDS)) {
      if (name === parameter) byId(id)?.setAttribute("aria-invalid", "true");
      else byId(id)?.removeAttribute("aria-invalid");
    }
    if (byId("more").querySelector("[aria-invalid]")) byId("more").open = true;
  }

  #changed() {
    this.mark(null);
    clearTimeout(this.settling);
    this.settling = setTimeout(this.onChange, SETTLE_MILLISECONDS);
  }

  // A beam of N holds no more than N captions, and is cut into equal groups.
  #arrange(changed) {
    const [count, beam, groups] = [byId("count"), byId("beam"), byId("groups")];
    const isDrawn = isDrawing();
    for (const id of ["include", "groups"]) byId(id).disabled = isDrawn;
    const parts = isDrawn ? 1 : Number(groups.value);
    let width = Number(beam.value);
    if (changed === count) width = Math.max(width, Number(count.value));
    width = Math.min(WIDEST_BEAM - (WIDEST_BEAM % parts), Math.ceil(width / parts) * parts);
    beam.value = String(width);
    count.value = String(Math.min(Number(count.value), width));
    for (const input of [count, beam, groups]) byId(`${input.id}-shown`).textContent = input.value;
    const temperature = byId("temperature");
    if (temperature) {
      temperature.disabled = !isDrawn;
      byId("temperature-shown").textContent = Number(temperature.value).toFixed(1);
    }
  }
}

function isDrawing() {
  return byId("draw")?.checked ?? false;
}

function wordsIn(id) {
  return byId(id).value.split(/[\s,]+/).filter((word) => word);
}
