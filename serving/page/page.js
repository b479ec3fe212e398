// The caption page: takes photographs however they come, and keeps a few requests under way. What
// it asks is back_end.js: the service, or in a static page a worker; what it asks for is in
// controls.js. A photograph's own card is in card.js, its attention in attention_overlay.js.

import { captionsOf, Problem } from "./back_end.js";
import { Card } from "./card.js";
import { Controls } from "./controls.js";
import { byId, within } from "./elements.js";

const AT_ONCE = 3; // requests under way

const list = byId("photographs");
/** @type {Card[]} */
const cards = [];
/** @type {Card[]} */
const queue = [];
let underWay = 0;
let apiKey = "";
const controls = new Controls(() => cards.forEach(ask));

/** @param {string} words */
function say(words) {
  byId("announcer").textContent = words;
}

/** @param {string} words */
function complain(words) {
  byId("notice").textContent = words;
}

// Intake

/**
 * @param {Iterable<File>} files
 * @param {{named?: string}} [how]  What to say where there is none.
 */
function take(files, { named = "" } = {}) {
  const photographs = [...files].filter((file) => file.size > 0);
  if (!photographs.length) {
    complain(named || "There is no photograph in that.");
    return;
  }
  complain("");
  const fresh = photographs.map((file) => new Card(file, { onRemove: remove, onRetry: ask, say }));
  list.prepend(...fresh.map((card) => card.element));
  cards.unshift(...fresh);
  arrange();
  fresh.forEach(ask);
  const quick = matchMedia("(prefers-reduced-motion: reduce)").matches;
  fresh[0].element.scrollIntoView({ block: "nearest", behavior: quick ? "auto" : "smooth" });
}

/** @param {Card} card */
function remove(card) {
  const place = cards.indexOf(card);
  cards.splice(place, 1);
  if (queue.includes(card)) queue.splice(queue.indexOf(card), 1);
  card.discard();
  arrange();
  const next = cards[Math.min(place, cards.length - 1)];
  (next ? within(next.element, ".remove") : byId("files")).focus();
  say(`${card.name} is removed.`);
}

function arrange() {
  byId("results").hidden = !cards.length;
  document.body.classList.toggle("has-photographs", cards.length > 0);
}

/** @param {DragEvent} event */
function carriesFiles(event) {
  return [...(event.dataTransfer?.types || [])].includes("Files");
}

function listenForPhotographs() {
  const inputs = ["files", "snapshot"].map((id) => byId(id, HTMLInputElement));
  inputs[0].required = false;
  for (const input of inputs) {
    input.addEventListener("change", () => {
      if (input.files?.length) take(input.files);
      input.value = "";
    });
  }
  byId("ask").addEventListener("submit", (event) => event.preventDefault());
  let depth = 0; // dragenter and dragleave come in pairs for every element that is crossed
  const drag = (/** @type {number} */ step) => {
    depth = step ? Math.max(0, depth + step) : 0;
    document.body.classList.toggle("dropping", depth > 0);
  };
  addEventListener("dragenter", (event) => { if (carriesFiles(event)) drag(1); });
  addEventListener("dragleave", (event) => { if (carriesFiles(event)) drag(-1); });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    drag(0);
    take(event.dataTransfer?.files ?? [], {
      named: "What was dropped is not a file. Save the picture first, then drop it here.",
    });
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) {
      event.preventDefault();
      take(files);
    } else if (!(event.target instanceof HTMLInputElement)) {
      complain("There is no picture in the clipboard.");
    }
  });
}

// Asking the service

/** @param {Card} card */
function ask(card) {
  card.stop?.abort();
  card.waiting("Waiting for its turn …");
  if (!queue.includes(card)) queue.push(card);
  pump();
}

function pump() {
  while (underWay < AT_ONCE && queue.length) {
    underWay += 1;
    attend(/** @type {Card} */ (queue.shift())).finally(() => {
      underWay -= 1;
      pump();
    });
  }
}

/** @param {Card} card */
async function attend(card) {
  const stop = new AbortController();
  const key = apiKey;
  card.stop = stop;
  card.waiting("Looking …");
  try {
    const answer = await captionsOf(
      card.photograph,
      controls.options,
      {
        apiKey: key,
        signal: stop.signal,
        onWait: (seconds, problem) => card.waitingFor(seconds, problem),
      },
    );
    if (!stop.signal.aborted) card.captioned(answer);
  } catch (error) {
    if (stop.signal.aborted) return; // removed, or asked anew with other options
    const problem = error instanceof Problem
      ? error
      : new Problem("The page failed", `Load it again; if that does not help, report this: ${error instanceof Error ? error.message : error}`);
    if (problem.code === "unauthorized" && key !== apiKey) {
      ask(card); // the key that was given meanwhile is not what was refused
      return;
    }
    card.failed(problem);
    if (problem.parameter) controls.mark(problem.parameter);
    if (problem.code === "unauthorized") wantKey(card);
  } finally {
    if (card.stop === stop) card.stop = null;
  }
}

// Examples, key and camera

function listenForExamples() {
  for (const button of document.querySelectorAll(".example")) {
    const picture = within(button, "img", HTMLImageElement);
    button.addEventListener("click", async () => {
      const name = picture.src.split("/").pop() ?? "";
      try {
        const response = await fetch(picture.src);
        if (!response.ok) throw new Error(String(response.status));
        take([new File([await response.blob()], name, { type: "image/jpeg" })]);
      } catch {
        complain("The example cannot be fetched. Check the connection, or choose a photograph.");
      }
    });
  }
}

/** @type {Set<Card>} */
const locked = new Set(); // that were refused for want of a key

/** @param {Card} card */
function wantKey(card) {
  locked.add(card);
  const form = byId("key-form");
  if (form.hidden) {
    form.hidden = false;
    byId("key").focus();
  }
  if (apiKey) complain("The service does not know this key. Check it for missing characters.");
}

function listenForKey() {
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    apiKey = byId("key", HTMLInputElement).value.trim();
    byId("key-form").hidden = true;
    complain("");
    const refused = [...locked].filter((card) => cards.includes(card));
    locked.clear();
    refused.forEach(ask);
    (refused[0] ? within(refused[0].element, ".remove") : byId("files")).focus();
  });
}

function listenForCamera() {
  const dialog = byId("camera-dialog", HTMLDialogElement);
  const video = byId("viewfinder", HTMLVideoElement);
  /** @type {MediaStream | null} */
  let stream = null;
  let isPending = false; // while the browser asks for permission
  byId("camera").addEventListener("click", async () => {
    // A phone's own camera is better than a page's; without HTTPS there is no other.
    if (!navigator.mediaDevices?.getUserMedia || matchMedia("(pointer: coarse)").matches) {
      byId("snapshot").click();
      return;
    }
    if (isPending) return; // a second stream would leave the first one on
    isPending = true;
    complain("");
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1080 } },
      });
    } catch (error) {
      complain(error instanceof DOMException && error.name === "NotFoundError"
        ? "There is no camera here."
        : "The camera cannot be used. Perhaps another program holds it, or the browser was told to refuse.");
      return;
    } finally {
      isPending = false;
    }
    video.srcObject = stream;
    dialog.showModal();
    byId("shutter").focus();
  });
  byId("shutter").addEventListener("click", () => {
    if (!video.videoWidth) return; // no picture has come yet
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d")?.drawImage(video, 0, 0);
    canvas.toBlob((blob) => {
      if (!blob) return;
      const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
      take([new File([blob], `camera ${time}.jpg`, { type: "image/jpeg" })]);
    }, "image/jpeg", 0.92);
    dialog.close();
  });
  byId("camera-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    stream?.getTracks().forEach((track) => track.stop());
    stream = video.srcObject = null;
  });
}

listenForPhotographs();
listenForExamples();
listenForKey();
listenForCamera();
