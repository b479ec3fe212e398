// The one matrix product behind all others, and how an LSTM's matrices are cut for it.
//
// A tile of the result, a few rows by four vectors, stays in registers while the sum runs: per step
// of the sum 4 vectors and TILE_ROWS numbers are read for 4 * TILE_ROWS vector operations, so
// that arithmetic and not memory is the limit (K. Goto, R. van de Geijn: Anatomy of
// high-performance matrix multiplication, 2008).
//
// Letters: T steps, B batch, I input, H hidden. A panel is one vector of hidden units with all its
// four gates: the tile that a panel gives holds i, f, g and o of the same units, and the gates'
// maths can follow at once.
#pragma once

#include "vectors.h"

constexpr long DEPTH = 144;  // steps of a sum at a time: 144 x 4 vectors of weights fit the L1

inline long ceil_div(long number, long divisor) { return (number + divisor - 1) / divisor; }

// The numbers from one row of a buffer to the next: whole cache lines and one more. Rows a power of
// two apart would all compete for the same few places of the cache.
template <class Real>
long apart(long row) {
  constexpr long line = 64 / sizeof(Real);
  return (ceil_div(row, line) | 1) * line;
}

// sums[r][c] += left[r * left_row + k * left_step] * right[k * right_step + c * lanes], for all k
template <class Real, int ROWS, int VECTORS>
__attribute__((noinline)) void multiply_tile(Vec<Real>* sums, const Real* left, long left_row,
                                             long left_step, const Real* right, long right_step,
                                             long depth) {
  constexpr int lanes = Numbers<Real>::lanes;
  Vec<Real> tile[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < VECTORS; ++c) tile[r][c] = sums[r * VECTORS + c];
  for (long k = 0; k < depth; ++k) {
    Vec<Real> value[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) value[r] = broadcast(left[r * left_row]);
#pragma GCC unroll 4
    for (int c = 0; c < VECTORS; ++c) {
      const Vec<Real> weights = in_register<Real>(load(right + c * lanes));
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) tile[r][c] += value[r] * weights;
    }
    left += left_step;
    right += right_step;
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < VECTORS; ++c) sums[r * VECTORS + c] = tile[r][c];
}

template <class Real, int VECTORS, int ROWS = TILE_ROWS>
inline void multiply(int rows, Vec<Real>* sums, const Real* left, long left_row, long left_step,
                     const Real* right, long right_step, long depth) {
  if constexpr (ROWS > 1) {
    if (rows < ROWS)
      return multiply<Real, VECTORS, ROWS - 1>(rows, sums, left, left_row, left_step, right,
                                               right_step, depth);
  }
  multiply_tile<Real, ROWS, VECTORS>(sums, left, left_row, left_step, right, right_step, depth);
}

// The same for a number of vectors that is known at run time only.
template <class Real, int VECTORS = 4>
inline void multiply(int rows, int vectors, Vec<Real>* sums, const Real* left, long left_row,
                     long left_step, const Real* right, long right_step, long depth) {
  if constexpr (VECTORS > 1) {
    if (vectors < VECTORS)
      return multiply<Real, VECTORS - 1>(rows, vectors, sums, left, left_row, left_step, right,
                                         right_step, depth);
  }
  multiply<Real, VECTORS>(rows, sums, left, left_row, left_step, right, right_step, depth);
}

// `count` things in as few parts of at most `most` as possible, all of nearly the same size: one
// thin part at the end would leave the arithmetic units idle.
struct Parts {
  long count, parts;
  Parts(long count_, long most) : count(count_), parts(ceil_div(count_, most)) {}
  long begin(long part) const { return count * part / parts; }
  long size(long part) const { return begin(part + 1) - begin(part); }
};

// The rows of the batch that one thread computes, from the first step to the last without waiting
// for anybody. Sequences sorted by length are dealt like cards, so that each thread gets short and
// long ones; the rows still running at a step are then the first of each hand as well.
struct Slice {
  long first, stride, rows;
  const int64_t* lengths;

  Slice(long number, long slices, long batch, const int64_t* lengths_) : lengths(lengths_) {
    const Parts parts(batch, ceil_div(batch, slices));
    first = lengths ? number : parts.begin(number);
    stride = lengths ? slices : 1;
    rows = lengths ? ceil_div(batch - number, slices) : parts.size(number);
  }
  long row(long r) const { return first + r * stride; }
  long end(long r, long steps) const { return lengths ? lengths[row(r)] : steps; }
  long running(long t) const {
    if (!lengths) return rows;
    long count = 0;
    while (count < rows && lengths[row(count)] > t) ++count;
    return count;
  }
};

// How many slices to cut. Waking a thread up takes as long as a small sequence, and a slice thinner
// than a tile reads all the weights for little. One too thick outgrows its core's cache: threads
// take several in turn then, unless the weights are too large for the cache anyway.
inline long count_slices(long steps, long batch, long hidden, long input, long threads) {
  constexpr double WORTH = 2e5;  // products, about 10 microseconds
  const double weights = 4.0 * hidden * (hidden + input), products = weights * steps * batch;
  const long thickest = weights > 3e5 ? 256 : 64;  // rows
  long slices = threads < ceil_div(batch, TILE_ROWS) ? threads : ceil_div(batch, TILE_ROWS);
  if (products < WORTH * slices) slices = static_cast<long>(products / WORTH);
  if (slices < 1) slices = 1;
  slices *= ceil_div(batch, slices * thickest);
  return ceil_div(batch, ceil_div(batch, slices));
}

// Ask for a share of the weights that come next, so that they are there in time: part `number` of
// `count`, where each does some work on the weights at hand.
template <class Real>
void prefetch(const Real* next, long size, const Parts& blocks, long number) {
  constexpr long line = 64 / sizeof(Real);
  const long end = size * (number + 1) / blocks.parts;
  for (long at = size * number / blocks.parts; at < end; at += line) __builtin_prefetch(next + at);
}

// Where gate g of hidden unit u stands in a row of gates (each row padded to whole vectors).
//
// Panel by panel where this code does all products itself; gate by gate, as torch has it, where the
// product with a wide input is left to torch.
template <class Real>
struct GateLayout {
  static constexpr long lanes = Numbers<Real>::lanes;
  long panels, panel, gate, row;

  GateLayout(long hidden, bool by_gate) {
    panels = ceil_div(hidden, lanes);
    panel = by_gate ? lanes : 4 * lanes;
    gate = by_gate ? panels * lanes : lanes;
    row = 4 * panels * lanes;
  }
  long place(long g, long u) const { return u / lanes * panel + g * gate + u % lanes; }
};

// weight [4 * H, depth] -> one panel's [k][gate][lane]: what a tile of gates reads, in its order.
template <class Real>
void pack_panel(Real* to, const Real* weight, long hidden, long depth, long panel) {
  constexpr long lanes = Numbers<Real>::lanes;
  for (long g = 0; g < 4; ++g)
    for (long lane = 0; lane < lanes; ++lane) {
      const long unit = panel * lanes + lane;
      const Real* from = weight + (g * hidden + unit) * depth;
      for (long k = 0; k < depth; ++k) to[(k * 4 + g) * lanes + lane] = unit < hidden ? from[k] : 0;
    }
}

// weight [4 * H, width] -> for each group of up to four vectors of columns [place of gate][column],
// for the products with gradients of gates. Groups follow each other; `columns` counts vectors.
template <class Real>
void pack_transposed(Real* to, const Real* weight, const GateLayout<Real>& layout, long hidden,
                     long width, const Parts& columns, long group) {
  constexpr long lanes = Numbers<Real>::lanes;
  const long begin = columns.begin(group) * lanes, size = columns.size(group) * lanes;
  to += begin * layout.row;
  memset(to, 0, sizeof(Real) * size * layout.row);
  const long given = (begin + size < width ? begin + size : width) - begin;
  for (long g = 0; g < 4; ++g)
    for (long u = 0; u < hidden; ++u)
      memcpy(to + layout.place(g, u) * size, weight + (g * hidden + u) * width + begin,
             sizeof(Real) * given);
}
