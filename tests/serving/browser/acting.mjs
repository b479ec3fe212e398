// Acts on the page and on <photo-caption> as people, browsers and services do. Their modules are the
// real ones. Elements do nothing by themselves; requests, cameras and workers wait for the test.
// Requests of tests and what is seen after each are JSON values, one a line.
// Usage: node acting.mjs PAGE, the folder of the modules.

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const page = pathToFileURL(`${process.argv[2]}/`);

class Thing extends EventTarget {
  #within = new Map();
  value = "";
  textContent = "";
  hidden = false;
  dataset = {};
  style = {};
  classList = { add() {}, remove() {}, toggle() {}, contains: () => false };

  querySelector(selector) {
    if (!this.#within.has(selector)) this.#within.set(selector, new Thing());
    return this.#within.get(selector);
  }

  get content() { return this; } // of a template
  cloneNode() { return new Thing(); }
  querySelectorAll() { return []; }
  getElementById(id) { return this.querySelector(`#${id}`); }
  createElement() { return new Thing(); }
  getRootNode() { return document; }
  getContext() { return null; }
  getAttribute() { return null; }
  hasAttribute() { return false; }
  click() { this.dispatchEvent(new Event("click")); }
  close() { this.dispatchEvent(new Event("close")); }
}
for (const name of ["append", "prepend", "replaceChildren", "focus", "remove", "scrollIntoView",
  "setAttribute", "removeAttribute", "showModal"]) Thing.prototype[name] = () => {};

const requests = [];
const cameras = [];
const workers = [];

class Worker extends EventTarget {
  constructor() {
    super();
    this.asked = [];
    workers.push(this);
  }

  postMessage(message) {
    if (message.kind === "load") this.tell({ id: message.id, value: {} });
    else this.asked.push(message);
  }

  tell(data) { queueMicrotask(() => this.dispatchEvent(Object.assign(new Event("message"), { data }))); }
  terminate() {}
}

const mediaDevices = {
  getUserMedia: () => new Promise((resolve, reject) => {
    const camera = { isOn: false, reject };
    camera.allow = () => {
      camera.isOn = true;
      resolve({ getTracks: () => [{ stop() { camera.isOn = false; } }] });
    };
    cameras.push(camera);
  }),
};

for (const kind of ["", "Button", "Canvas", "Details", "Dialog", "Image", "Input", "Select",
  "Template", "Video"]) globalThis[`HTML${kind}Element`] = Thing;
globalThis.CustomEvent ??= class extends Event {
  constructor(name, { detail }) {
    super(name);
    this.detail = detail;
  }
};
globalThis.document = Object.assign(new Thing(), { body: new Thing(), baseURI: page.href });
globalThis.location = { origin: "null" }; // that of files
globalThis.Worker = Worker;
globalThis.customElements = { define() {} };
globalThis.matchMedia = () => ({ matches: false });
globalThis.addEventListener = () => {};
globalThis.cancelAnimationFrame = () => {};
Object.defineProperty(globalThis, "navigator", { value: { mediaDevices } });
globalThis.fetch = (_, { body, headers }) => new Promise((resolve) => {
  requests.push({ asked: [body.name, headers.Authorization ?? null], resolve });
});

const byId = (id) => document.getElementById(id);
const named = (name) => Object.assign(new Blob([name], { type: "image/jpeg" }), { name });
let element = null;
const problems = [];

const ACTS = {
  async openPage() {
    byId("key-form").hidden = true;
    await import(new URL("page.js", page).href);
  },
  choose({ names }) {
    byId("files").files = names.map(named);
    byId("files").dispatchEvent(new Event("change"));
  },
  refuse({ request }) { // for want of a valid key
    requests[request].resolve({ ok: false, status: 401, headers: new Map(), json: async () => ({}) });
  },
  giveKey({ key }) {
    byId("key").value = key;
    byId("key-form").dispatchEvent(new Event("submit"));
  },
  click: ({ id }) => byId(id).click(),
  allowCameras: () => cameras.forEach((camera) => camera.allow()),
  refuseCameras: () => cameras.forEach((camera) => camera.reject(new DOMException("", "NotAllowedError"))),

  async openElement() {
    const { PhotoCaption } = await import(new URL("photo_caption.js", page).href);
    element = new PhotoCaption();
    element.getAttribute = (name) => (name === "for" ? "alt" : null);
    element.addEventListener("problem", ({ detail }) => problems.push(detail.code));
    element.connectedCallback();
  },
  putIn() {
    element.input.files = [named("picture")];
    element.dispatchEvent(new Event("change"));
  },
  type({ text }) { byId("alt").value = text; },
  caption({ text }) {
    const worker = workers.at(-1);
    worker.tell({ id: worker.asked.at(-1).id, value: { captions: [{ text }] } });
  },
  fail({ code }) {
    const worker = workers.at(-1);
    worker.tell({ id: worker.asked.at(-1).id, error: { title: "It failed", detail: "", code } });
  },
  stopWorker: () => workers.at(-1).dispatchEvent(new Event("error")),
};

const seen = () => ({
  asked: requests.map(({ asked }) => asked),
  notice: byId("notice").textContent,
  wantsKey: !byId("key-form").hidden,
  cameras: cameras.map(({ isOn }) => isOn),
  alt: byId("alt").value,
  problems,
  workers: workers.length,
});

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  let answer;
  try {
    await ACTS[asked.kind](asked);
    await new Promise(setImmediate); // what follows from it has happened
    answer = { value: seen() };
  } catch (error) {
    answer = { error: String(error.stack) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
