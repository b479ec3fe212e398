// What the page asks for captions: here its service. A static page has another (browser_back_end.js)
// in place of this file; both export `captionsOf` and `Problem`.

export { captionsOf, Problem } from "./service.js";
