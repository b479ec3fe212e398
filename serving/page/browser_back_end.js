// What the static page asks for captions: a worker of its own. Here are the model's download, with
// its size and the time left, and the same answers that the service gives.

import { Captioner, CaptionerError } from "./captioner.js";

export { CaptionerError as Problem };

const FOLDER = "./";
const DEVICES = { wasm: "WebAssembly", webgpu: "WebGPU" };

const state = byId("model-state");
const bar = /** @type {HTMLProgressElement} */ (byId("model-progress"));
/** @type {Promise<Captioner> | null} */
let loading = null;

/**
 * Returns the service's answer for one photograph.
 *
 * @param {Blob} photograph
 * @param {{beamSize: string, count: string} & Record<string, any>} options  As the page has them:
 *   numbers may be texts.
 * @param {{signal: AbortSignal}} how
 */
export async function captionsOf(photograph, { beamSize, count, ...others }, { signal }) {
  const captioner = await load();
  const asked = { beamSize: Number(beamSize), numCaptions: Number(count), ...others, signal };
  let answer;
  try {
    answer = await captioner.look(photograph, asked);
  } catch (error) {
    if (error instanceof CaptionerError && error.code === "stopped") loading = null;
    throw error;
  }
  const { name, hash } = captioner.info;
  return {
    captions: answer.captions.map((caption) => Object.fromEntries(
      Object.entries(caption).map(([option, value]) => [asInService(option), value]),
    )),
    image: answer.image,
    model: { name, hash },
    timing_ms: answer.milliseconds,
  };
}

/** @param {string} name */
function asInService(name) {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

function load() {
  loading ??= open().catch((error) => {
    loading = null; // the next photograph tries again
    throw error;
  });
  return loading;
}

async function open() {
  const asked = new URLSearchParams(location.search);
  const device = asked.get("device") === "webgpu" ? "webgpu" : "wasm";
  const threads = Number(asked.get("threads")) || undefined;
  bar.hidden = false;
  bar.removeAttribute("value");
  state.textContent = "Opening the model …";
  try {
    const captioner = await Captioner.load(FOLDER, { onProgress: showProgress, device, threads });
    const { info } = captioner;
    const many = info.threads === 1 ? "one thread" : `${info.threads} threads`;
    state.textContent = `Ready: ${DEVICES[info.device]}, ${many}. Works without a network from now on.`;
    if (!navigator.serviceWorker?.controller) state.textContent = `Ready: ${DEVICES[info.device]}, ${many}.`;
    return captioner;
  } catch (error) {
    state.textContent = error instanceof CaptionerError
      ? `${error.title}. ${error.detail}`
      : "The model cannot be opened in this browser.";
    throw error;
  } finally {
    bar.hidden = true;
  }
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

/** @param {string} id */
function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

navigator.serviceWorker?.register("service_worker.js").catch(() => {
  // Private windows may refuse; the page then needs its network.
});
// A person who asked the browser to save data decides by the first photograph.
if (!(/** @type {any} */ (navigator).connection?.saveData)) load().catch(() => {});
