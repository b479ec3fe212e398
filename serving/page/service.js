// What the page asks of the service, and what it does when the answer is no: a busy service is
// asked again when it says so, everything else becomes a Problem that a person can read.

const ATTEMPTS = 6;
const LONGEST_WAIT_SECONDS = 60;
const MEGABYTE = 1024 * 1024;

/**
 * @typedef {object} Caption  As the service gives it; what it may lack is not known.
 * @property {string} text
 * @property {string[]} [tokens]
 * @property {number} probability  Of exactly these words.
 * @property {number | null} [confidence]
 * @property {number[]} [word_probabilities]  Of each token.
 * @property {number[][][] | null} [attention]  Of each token, rows of weights.
 * @property {number[][] | null} [attribute_attention]  Of each token, a share for each attribute.
 * @property {Record<string, number[]>} [shares]  Of what else was looked at.
 *
 * @typedef {{word: string, probability: number}} Attribute
 *
 * @typedef {object} Answer
 * @property {Caption[]} captions  The best first.
 * @property {{format: string, width: number, height: number, seen?: number[],
 *   attributes?: Attribute[]}} [image]
 * @property {{name: string, hash?: string}} [model]
 * @property {{total: number}} [timing_ms]
 *
 * @typedef {object} Asked  The service's options in camelCase, but `count` for num_captions.
 * @property {number} beamSize
 * @property {number} count
 * @property {string[]} [include]
 * @property {string[]} [exclude]
 * @property {number} [noRepeatNgram]
 * @property {boolean} [repeatWords]
 * @property {number} [diverseGroups]
 * @property {boolean} [sample]
 * @property {number} [temperature]
 *
 * @typedef {object} How
 * @property {string} apiKey
 * @property {AbortSignal} signal
 * @property {(seconds: number, problem: Problem) => void} onWait  Told of each wait beforehand.
 */

export class Problem extends Error {
  /**
   * @param {string} title
   * @param {string} detail
   * @param {{code?: string, canRetry?: boolean, parameter?: string}} [about]
   */
  constructor(title, detail, { code = "", canRetry = true, parameter = "" } = {}) {
    super(detail);
    this.title = title;
    this.detail = detail;
    this.code = code;
    this.canRetry = canRetry;
    this.parameter = parameter; // the option that is wrong
  }
}

/**
 * Returns the service's answer for one photograph. Throws a Problem, or the AbortError of `signal`.
 *
 * @param {File} photograph
 * @param {Asked} options
 * @param {How} how
 * @returns {Promise<Answer>}
 */
export async function captionsOf(photograph, { count, ...options }, { apiKey, signal, onWait }) {
  const query = new URLSearchParams({ num_captions: String(count), attention: "true" });
  for (const [name, value] of Object.entries(options)) {
    const asked = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    query.set(asked, String(value)); // words between commas
  }
  const isImage = photograph.type.startsWith("image/");
  /** @type {Record<string, string>} */
  const headers = {
    Accept: "application/json, application/problem+json",
    "Content-Type": isImage ? photograph.type : "application/octet-stream",
  };
  if (apiKey) headers.Authorization = `Bearer ${apiKey}`;
  for (let attempt = 1; ; attempt += 1) {
    let response;
    try {
      response = await fetch(`caption?${query}`, {
        method: "POST", body: photograph, headers, signal, credentials: "same-origin",
      });
    } catch (error) {
      if (isAbort(error)) throw error;
      throw unreachable(photograph);
    }
    if (response.ok) return readAnswer(response);
    const problem = await readProblem(response);
    if (response.status !== 429 && response.status !== 503) throw problem;
    const seconds = secondsToWait(response.headers.get("Retry-After"), attempt);
    if (attempt === ATTEMPTS || seconds > LONGEST_WAIT_SECONDS) throw problem;
    onWait(seconds, problem);
    await pause(seconds, signal);
  }
}

/**
 * @param {Response} response
 * @returns {Promise<Answer>}
 */
async function readAnswer(response) {
  try {
    const answer = await response.json();
    if (Array.isArray(answer.captions)) return answer;
  } catch (error) {
    if (isAbort(error)) throw error;
  }
  throw new Problem("The answer makes no sense", "Something other than the service answered.");
}

/** @param {Response} response */
async function readProblem(response) {
  /** @type {{title?: string, detail?: unknown, code?: string, parameter?: string}} */
  let told = {};
  try {
    told = await response.json();
  } catch {
    // Not JSON: a proxy's page, which is of no use to the reader.
  }
  const canRetry = response.status === 408 || response.status === 429 || response.status >= 500;
  const detail = told.detail && typeof told.detail === "string" ? told.detail : "";
  return new Problem(
    told.title || `The service answered with status ${response.status}`,
    detail || (told.title ? "" : "It gave no reason."),
    {
      code: told.code || (response.status === 401 ? "unauthorized" : ""),
      canRetry,
      parameter: told.parameter,
    },
  );
}

/** @param {Blob} photograph */
function unreachable(photograph) {
  const size = photograph.size / MEGABYTE;
  const maybe = size > 5 ? `, or this file of ${size.toFixed(0)} MB is more than it takes` : "";
  return new Problem(
    "The service cannot be reached",
    `The connection failed before an answer came. Perhaps the service or the network is down${maybe}.`,
  );
}

/**
 * @param {string | null} retryAfter
 * @param {number} attempt
 */
function secondsToWait(retryAfter, attempt) {
  const text = (retryAfter || "").trim();
  if (/^\d+$/.test(text)) return Math.max(1, Number(text));
  const moment = Date.parse(text);
  if (!Number.isNaN(moment)) return Math.max(1, Math.ceil((moment - Date.now()) / 1000));
  return 2 ** (attempt - 1);
}

/** @param {unknown} error */
function isAbort(error) {
  return error instanceof DOMException && error.name === "AbortError";
}

/**
 * @param {number} seconds
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    setTimeout(resolve, seconds * 1000);
  });
}
