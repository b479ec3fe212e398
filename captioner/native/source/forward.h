// The forward pass: one parallel region for all steps, each thread with its own rows of the batch.
#pragma once

#include "call.h"
#include "tiles.h"

// What Python passes. Matrices lie as torch has them, without gaps; letters as in tiles.h, and
// P = H rounded up to whole vectors. A pointer may be null where it says "or null".
template <class Real>
struct ForwardCall {
  CALL_FIELDS(
    int64_t steps, batch, input, hidden, threads;
    int64_t is_projected;    // gates hold W_ih x + b already, gate by gate; x, w_ih, b unused
    int64_t is_kept;         // gates [T, B, 4 P], cells [T + 1, B, P] of all steps; else of one
    const int64_t* lengths;  // [B], falling: row b runs for lengths[b] steps; or null
    const Real *x, *h0, *c0, *w_ih, *w_hh;
    const Real *b_ih, *b_hh;  // or null
    Real *outputs, *h_n, *c_n, *gates, *cells;
  )
};

template <class Real>
struct Forward {
  static constexpr long lanes = Numbers<Real>::lanes;
  const ForwardCall<Real>& call;
  const long hidden, input, batch;
  const GateLayout<Real> layout;
  const long padded, slices, workers;  // a worker is a thread, and takes one slice after another
  const long factors;  // what gates are made of: h, x and 1; h alone where the rest is in
  const long factors_row, slice_size;
  Real *weights, *states;

  explicit Forward(const ForwardCall<Real>& call_)
      : call(call_), hidden(call.hidden), input(call.is_projected ? 0 : call.input),
        batch(call.batch), layout(hidden, call.is_projected), padded(layout.panels * lanes),
        slices(count_slices(call.steps, batch, hidden, input, call.threads)),
        workers(slices < call.threads ? slices : call.threads),
        factors(call.is_projected ? hidden : hidden + input + 1),
        factors_row(apart<Real>(factors > padded ? factors : padded)),
        slice_size(2 * ceil_div(batch, slices) * factors_row) {}

  long scratch_size() const { return layout.row * factors + workers * slice_size; }

  void use_scratch(Real* scratch) {
    states = scratch;
    weights = states + workers * slice_size;
  }

  long packs() const { return layout.panels; }
  long sums() const { return 0; }
  void collect(long) const {}

  // A factor's weights in all four gates of a panel's units: the rows of W_hh and W_ih, transposed,
  // and last the biases, which multiply a 1.
  void pack(long panel) {
    Real* to = weights + panel * factors * 4 * lanes;
    pack_panel(to, call.w_hh, hidden, hidden, panel);
    if (call.is_projected) return;
    pack_panel(to + hidden * 4 * lanes, call.w_ih, hidden, input, panel);
    to += (hidden + input) * 4 * lanes;
    for (long g = 0; g < 4; ++g)
      for (long lane = 0; lane < lanes; ++lane) {
        const long unit = panel * lanes + lane, place = g * hidden + unit;
        *to = 0;
        if (unit < hidden && call.b_ih) *to += call.b_ih[place];
        if (unit < hidden && call.b_hh) *to += call.b_hh[place];
        ++to;
      }
  }

  // Without saving, one step's gates and two steps' cells are enough.
  Real* gates_at(long t, long row) const {
    return call.gates + ((call.is_kept || call.is_projected ? t : 0) * batch + row) * layout.row;
  }
  Real* cells_at(long t, long row) const {
    return call.cells + ((call.is_kept ? t : t % 2) * batch + row) * padded;
  }

  // One row each for the factors of step t; those of the step before are still being read.
  Real* factors_at(long worker, long t, long r) const {
    const long rows = ceil_div(batch, slices);
    return states + worker * slice_size + (t % 2 * rows + r) * factors_row;
  }

  void run(long worker, const Slice& slice) const {
    for (long r = 0; r < slice.rows; ++r) {
      const long row = slice.row(r);
      memcpy(factors_at(worker, 0, r), call.h0 + row * hidden, sizeof(Real) * hidden);
      for (long u = 0; u < padded; u += lanes)
        store(cells_at(0, row) + u, load(call.c0 + row * hidden + u, hidden - u));
    }
    for (long t = 0; t < call.steps; ++t) {
      const long running = slice.running(t);
      if (!call.is_projected)
        for (long r = 0; r < running; ++r) {
          Real* to = factors_at(worker, t, r) + hidden;
          memcpy(to, call.x + (t * batch + slice.row(r)) * input, sizeof(Real) * input);
          to[input] = 1;
        }
      for (long panel = 0; running && panel < layout.panels; ++panel)
        run_panel(worker, slice, running, t, panel);
      for (long r = 0; r < slice.rows; ++r) {
        const long row = slice.row(r);
        const Real* state = factors_at(worker, t + 1, r);
        Real* output = call.outputs + (t * batch + row) * hidden;
        if (r >= running) {
          memset(output, 0, sizeof(Real) * hidden);
          continue;
        }
        memcpy(output, state, sizeof(Real) * hidden);
        if (t + 1 < slice.end(r, call.steps)) continue;
        memcpy(call.h_n + row * hidden, state, sizeof(Real) * hidden);
        memcpy(call.c_n + row * hidden, cells_at(t + 1, row), sizeof(Real) * hidden);
      }
    }
  }

  // One step of one panel for all rows of the slice. A deep sum is taken in parts, so that the part
  // of the weights stays in the L1 cache for all rows; unfinished sums wait in the gates' place.
  void run_panel(long worker, const Slice& slice, long running, long t, long panel) const {
    const Parts depths(factors, DEPTH), blocks(running, TILE_ROWS);
    Vec<Real> sums[TILE_ROWS * 4];
    for (long part = 0; part < depths.parts; ++part) {
      const long k = depths.begin(part), size = depths.size(part) * 4 * lanes;
      const Real* right = weights + (panel * factors + k) * 4 * lanes;
      const bool is_first = part == 0 && !call.is_projected, is_last = part + 1 == depths.parts;
      for (long block = 0; block < blocks.parts; ++block) {
        const long r = blocks.begin(block), rows = blocks.size(block);
        for (long i = 0; i < rows; ++i) {
          const Real* gates = gates_at(t, slice.row(r + i)) + panel * layout.panel;
          for (long g = 0; g < 4; ++g)
            sums[4 * i + g] = is_first ? Vec<Real>{} : load(gates + g * layout.gate);
        }
        multiply<Real, 4>(rows, sums, factors_at(worker, t, r) + k, factors_row, 1,
                          right, 4 * lanes, depths.size(part));
        prefetch(right + size, size, blocks, block);
        if (is_last) {
          activate(worker, slice, t, r, rows, panel, sums);
          continue;
        }
        for (long i = 0; i < rows; ++i)
          store_gates(gates_at(t, slice.row(r + i)) + panel * layout.panel, sums + 4 * i);
      }
    }
  }

  void store_gates(Real* gates, const Vec<Real>* values) const {
    for (long g = 0; g < 4; ++g) store(gates + g * layout.gate, values[g]);
  }

  // From a tile's finished sums to gates, c_t and h_t. Each is a long chain of operations that wait
  // for each other, so rows go through it side by side. The last vector of a row of h may reach
  // into x, which is written after it.
  void activate(long worker, const Slice& slice, long t, long r, long rows, long panel,
                const Vec<Real>* sums) const {
    const long unit = panel * lanes;
    Vec<Real> out[TILE_ROWS], cell[TILE_ROWS];
    for (long i = 0; i < rows; ++i, sums += 4) {
      const long row = slice.row(r + i);
      const Vec<Real> gates[4] = {sigmoid<Real>(sums[0]), sigmoid<Real>(sums[1]),
                                  hyperbolic_tangent<Real>(sums[2]), sigmoid<Real>(sums[3])};
      out[i] = gates[3];
      cell[i] = gates[1] * load(cells_at(t, row) + unit) + gates[0] * gates[2];
      store(cells_at(t + 1, row) + unit, cell[i]);
      if (call.is_kept) store_gates(gates_at(t, row) + panel * layout.panel, gates);
    }
    for (long i = 0; i < rows; ++i)
      store(factors_at(worker, t + 1, r + i) + unit, out[i] * hyperbolic_tangent<Real>(cell[i]));
  }
};
