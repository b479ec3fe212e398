// Elements of the page, of the kind that their users need: found, or made.

/**
 * Returns the element with an id, which is to be there.
 *
 * @template {HTMLElement} [Kind=HTMLElement]
 * @param {string} id
 * @param {new () => Kind} [kind]
 * @returns {Kind}
 */
export function byId(id, kind) {
  return asKind(document.getElementById(id), `#${id}`, kind);
}

/**
 * Returns the first element in another that a selector matches, which is to be there.
 *
 * @template {HTMLElement} [Kind=HTMLElement]
 * @param {ParentNode} place
 * @param {string} selector
 * @param {new () => Kind} [kind]
 * @returns {Kind}
 */
export function within(place, selector, kind) {
  return asKind(place.querySelector(selector), selector, kind);
}

/**
 * Returns a new element.
 *
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {string} [className]
 * @param {string} [text]
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (element instanceof HTMLButtonElement) element.type = "button"; // it must not send a form
  if (className) element.className = className;
  element.textContent = text;
  return element;
}

/**
 * @template {HTMLElement} Kind
 * @param {Element | null} found
 * @param {string} selector
 * @param {new () => Kind} [kind]
 * @returns {Kind}
 */
function asKind(found, selector, kind) {
  if (found instanceof (kind ?? HTMLElement)) return /** @type {Kind} */ (found);
  throw new Error(`the page has no ${kind?.name ?? "element"} ${selector}`);
}
