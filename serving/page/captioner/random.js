// Random numbers of a seed, the same that NumPy's `default_rng(seed)` gives, so that a seed draws
// the captions here that it draws in the library: the generator PCG64 (O'Neill 2014, its output
// XSL-RR), begun from a seed as NumPy's SeedSequence does.

const POOL = 4; // words of 32 bits that hold what is known of a seed
const [HASH_IN, HASH_IN_FACTOR] = [0x43b0d7e5, 0x931e8875];
const [HASH_OUT, HASH_OUT_FACTOR] = [0x8b51f9dd, 0x58f38ded];
const [MIX_LEFT, MIX_RIGHT] = [0xca01f9dd, 0x4973f715];
const FACTOR = 0x2360ed051fc65da44385df649fccf645n;
const DOUBLE_BITS = 53;
const SEED_BYTES = 16; // of one that is not given

/** Numbers that are at least 0 and below 1. */
export class Random {
  #state = 0n;
  #increment;

  /** @param {number | null} seed  Without one no two are alike. */
  constructor(seed) {
    const [high, low, thenHigh, thenLow] = stateOf(seed === null ? entropy() : wordsOf(seed));
    this.#increment = BigInt.asUintN(128, (((thenHigh << 64n) | thenLow) << 1n) | 1n);
    this.#step();
    this.#state = BigInt.asUintN(128, this.#state + ((high << 64n) | low));
    this.#step();
  }

  next() {
    this.#step();
    const mixed = BigInt.asUintN(64, (this.#state >> 64n) ^ this.#state);
    const turn = this.#state >> 122n;
    const bits = BigInt.asUintN(64, (mixed >> turn) | (mixed << (64n - turn)));
    return Number(bits >> BigInt(64 - DOUBLE_BITS)) / 2 ** DOUBLE_BITS;
  }

  #step() {
    this.#state = BigInt.asUintN(128, this.#state * FACTOR + this.#increment);
  }
}

function entropy() {
  return [...new Uint32Array(crypto.getRandomValues(new Uint8Array(SEED_BYTES)).buffer)];
}

/** @param {number} seed */
function wordsOf(seed) {
  const high = Math.floor(seed / 2 ** 32);
  return high ? [seed % 2 ** 32, high] : [seed];
}

/**
 * Returns four numbers of 64 bits for a seed.
 *
 * @param {number[]} seed  Words of 32 bits, at most as many as the pool has.
 */
function stateOf(seed) {
  let factor = HASH_IN;
  const hashed = (/** @type {number} */ word) => {
    const before = word ^ factor;
    factor = Math.imul(factor, HASH_IN_FACTOR);
    return folded(Math.imul(before, factor));
  };
  const pool = Array.from({ length: POOL }, (_, place) => hashed(seed[place] ?? 0));
  for (let from = 0; from < POOL; from += 1) {
    for (let to = 0; to < POOL; to += 1) {
      if (from === to) continue;
      const mixed = Math.imul(MIX_LEFT, pool[to]) - Math.imul(MIX_RIGHT, hashed(pool[from]));
      pool[to] = folded(mixed);
    }
  }
  factor = HASH_OUT;
  const words = Array.from({ length: 2 * POOL }, (_, place) => {
    const before = pool[place % POOL] ^ factor;
    factor = Math.imul(factor, HASH_OUT_FACTOR);
    return BigInt(folded(Math.imul(before, factor)) >>> 0);
  });
  return Array.from({ length: POOL }, (_, place) => words[2 * place] | (words[2 * place + 1] << 32n));
}

/** @param {number} word */
function folded(word) {
  return word ^ (word >>> 16);
}
