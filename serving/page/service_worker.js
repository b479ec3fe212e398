// Keeps the page for visits without a network. The list of its files (files.js) is written by the
// export; another list is another version, which takes over when the page is opened the next time.
// The pieces of the model are kept by captioner.js, and answered from there.

/** @type {any} */
const scope = self;
scope.importScripts("files.js");

const PREFIX = `captioner-page ${scope.registration.scope} `;
const VERSION = PREFIX + scope.VERSION;
const PIECES = "captioner-pieces";

scope.addEventListener("install", (/** @type {any} */ event) => {
  event.waitUntil((async () => {
    const cache = await caches.open(VERSION);
    await cache.addAll(["./", ...Object.keys(scope.FILES)].map(
      (name) => new Request(name, { cache: "reload" }),
    ));
    await scope.skipWaiting();
  })());
});

scope.addEventListener("activate", (/** @type {any} */ event) => {
  event.waitUntil((async () => {
    for (const name of await caches.keys()) {
      if (name.startsWith(PREFIX) && name !== VERSION) await caches.delete(name);
    }
    await scope.clients.claim();
  })());
});

scope.addEventListener("fetch", (/** @type {any} */ event) => {
  const { request } = event;
  if (request.method !== "GET" || !request.url.startsWith(scope.registration.scope)) return;
  event.respondWith(answer(request));
});

/** @param {Request} request */
async function answer(request) {
  const how = { ignoreSearch: true };
  const kept = await caches.match(request, { ...how, cacheName: VERSION })
    ?? await caches.match(request, { ...how, cacheName: PIECES });
  return kept ?? fetch(request);
}
