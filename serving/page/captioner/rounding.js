/**
 * Rounds as Python does: a half goes to the even neighbour.
 *
 * @param {number} value
 */
export function halfToEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}
