// What the page asks of the service, and what it does when the answer is no: a busy service is
// asked again when it says so, everything else becomes a Problem that a person can read.

const ATTEMPTS = 6;
const LONGEST_WAIT_SECONDS = 60;
const MEGABYTE = 1024 * 1024;

export class Problem extends Error {
  constructor(title, detail, { code = "", canRetry = true, parameter = "" } = {}) {
    super(detail);
    this.title = title;
    this.detail = detail;
    this.code = code;
    this.canRetry = canRetry;
    this.parameter = parameter; // the option that is wrong
  }
}

// Returns the service's answer for one photograph. The options are the service's, in camelCase, but
// `count` for num_captions; a list of words is an array. `onWait(seconds, problem)` is told of each
// wait before it begins. Throws a Problem, or the AbortError of `signal`.
export async function captionsOf(photograph, { count, ...options }, { apiKey, signal, onWait }) {
  const query = new URLSearchParams({ num_captions: count, attention: "true" });
  for (const [name, value] of Object.entries(options)) {
    const asked = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    query.set(asked, Array.isArray(value) ? value.join(",") : value);
  }
  const isImage = photograph.type.startsWith("image/");
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
      if (error.name === "AbortError") throw error;
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

async function readAnswer(response) {
  try {
    const answer = await response.json();
    if (Array.isArray(answer.captions)) return answer;
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  throw new Problem("The answer makes no sense", "Something other than the service answered.");
}

async function readProblem(response) {
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

function unreachable(photograph) {
  const size = photograph.size / MEGABYTE;
  const maybe = size > 5 ? `, or this file of ${size.toFixed(0)} MB is more than it takes` : "";
  return new Problem(
    "The service cannot be reached",
    `The connection failed before an answer came. Perhaps the service or the network is down${maybe}.`,
  );
}

function secondsToWait(retryAfter, attempt) {
  const text = (retryAfter || "").trim();
  if (/^\d+$/.test(text)) return Math.max(1, Number(text));
  const moment = Date.parse(text);
  if (!Number.isNaN(moment)) return Math.max(1, Math.ceil((moment - Date.now()) / 1000));
  return 2 ** (attempt - 1);
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    setTimeout(resolve, seconds * 1000);
  });
}
