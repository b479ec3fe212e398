// What can go wrong, in words that a page can show.

export class CaptionerError extends Error {
  /**
   * @param {string} title  What happened, as the beginning of a sentence.
   * @param {string} detail  Why, and what helps: whole sentences.
   * @param {string} [code]  The service's code for the same problem, where it has one.
   * @param {string} [parameter]  The service's name of the option that is wrong.
   */
  constructor(title, detail, code = "", parameter = undefined) {
    super(`${title}. ${detail}`);
    this.name = "CaptionerError";
    this.title = title;
    this.detail = detail;
    this.code = code;
    this.parameter = parameter;
  }

  /** Whether the same may succeed when it is tried again. */
  get canRetry() {
    return ["unreachable", "damaged", "stopped", "internal_error"].includes(this.code);
  }
}
