// What the static page asks for captions: a worker of its own. Here are the model's download, with
// its size and the time left, what computes, and the same answers that the service gives.

import { Captioner, CaptionerError } from "./captioner.js";
import { byId } from "./elements.js";

export { CaptionerError as Problem };

const FOLDER = "./";
const DEVICES = { wasm: "WebAssembly", webgpu: "WebGPU" };

const state = byId("model-state");
const bar = byId("model-progress", HTMLProgressElement);
const choice = byId("device", HTMLSelectElement);
/** @type {Promise<Captioner> | null} */
let loading = null;
let opening = new AbortController();

/**
 * Returns the service's answer for one photograph.
 *
 * @type {typeof import("./service.js").captionsOf}
 */
export const captionsOf = async (photograph, { count, ...others }, how) => {
  const { signal } = opening;
  try {
    const captioner = await load();
    const options = { numCaptions: count, ...others, signal: how.signal };
    return answerOf(captioner, await captioner.look(photograph, options));
  } catch (error) {
    if (signal.aborted && !how.signal.aborted) { // another device was chosen meanwhile
      return captionsOf(photograph, { count, ...others }, how);
    }
    if (error instanceof CaptionerError && error.code === "stopped") loading = null;
    throw error;
  }
};

/**
 * @param {Captioner} captioner
 * @param {import("./captioner.js").Answer} answer
 * @returns {import("./service.js").Answer}
 */
function answerOf({ info }, { captions, image, milliseconds }) {
  showReady(info);
  return {
    captions: captions.map((caption) => ({
      text: caption.text,
      tokens: caption.tokens,
      probability: caption.probability,
      confidence: caption.confidence,
      word_probabilities: caption.wordProbabilities,
      attention: caption.attention,
      attribute_attention: caption.attributeAttention,
      shares: caption.shares,
    })),
    image,
    model: { name: info.name, hash: info.hash },
    timing_ms: milliseconds,
  };
}

function load() {
  const { signal } = opening;
  loading ??= open(signal).catch((error) => {
    if (!signal.aborted) loading = null; // the next photograph tries again
    throw error;
  });
  return loading;
}

/** @param {AbortSignal} signal */
async function open(signal) {
  const device = /** @type {"auto" | "wasm" | "webgpu"} */ (choice.value);
  const threads = Number(new URLSearchParams(location.search).get("threads")) || undefined;
  bar.hidden = false;
  bar.removeAttribute("value");
  state.textContent = "Opening the model …";
  try {
    const captioner = await Captioner.load(FOLDER, {
      onProgress: showProgress, device, threads, signal,
    });
    signal.addEventListener("abort", () => captioner.close());
    showReady(captioner.info);
    return captioner;
  } catch (error) {
    if (!signal.aborted) {
      state.textContent = error instanceof CaptionerError
        ? `${error.title}. ${error.detail}`
        : "The model cannot be opened in this browser.";
    }
    throw error;
  } finally {
    if (!signal.aborted) bar.hidden = true;
  }
}

/** @param {Captioner["info"]} info */
function showReady({ device, threads }) {
  const many = threads === 1 ? "one thread" : `${threads} threads`;
  const kept = navigator.serviceWorker?.controller ? " Works without a network from now on." : "";
  const words = `Ready: ${DEVICES[device]}, ${many}.${kept}`;
  if (state.textContent !== words) state.textContent = words; // said aloud when it changes
}

/** @param {import("./captioner.js").Progress} progress */
function showProgress({ loaded, total, fetched, secondsLeft }) {
  bar.value = loaded / total;
  if (!fetched || loaded === total) {
    state.textContent = "Opening the model …";
    return;
  }
  const megabytes = (/** @type {number} */ bytes) => (bytes / 1e6).toFixed(1);
  const left = secondsLeft === null ? "" : `, ${timeLeft(secondsLeft)} left`;
  state.textContent = `Fetching the model once: ${megabytes(loaded)} of ${megabytes(total)} MB${left}`;
}

/** @param {number} seconds */
function timeLeft(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return `${Math.round(seconds / 60)} min`;
}

function listenForDevice() {
  const asked = new URLSearchParams(location.search).get("device");
  if (asked && asked in DEVICES) choice.value = asked;
  byId("device-choice").hidden = !("gpu" in navigator && "Suspending" in WebAssembly);
  choice.addEventListener("change", () => {
    opening.abort();
    opening = new AbortController();
    loading = null;
    load().catch(() => {}); // it is told in words
  });
}

listenForDevice();
navigator.serviceWorker?.register("service_worker.js", { updateViaCache: "none" }).catch(() => {
  // Private windows may refuse; the page then needs its network.
});
// A person who asked the browser to save data decides by the first photograph.
if (!(/** @type {any} */ (navigator).connection?.saveData)) load().catch(() => {});
