// The forward pass: one parallel region for all steps, each thread with its own rows of the batch.
#pragma once

#include "tiles.h"

// What Python passes. Matrices lie as torch has them, without gaps; letters as in tiles.h, and
// P = H rounded up to whole vectors. A pointer may be null where it says "or null".
template <class Real>
struct ForwardCall {
  int64_t steps, batch, input, hidden, threads;
  int64_t is_projected;    // gates hold W_ih x + b already, gate by gate; x, w_ih and biases unused
  int64_t is_kept;         // gates [T, B, 4 P] and cells [T + 1, B, P] for all steps; else of one
  const int64_t* lengths;  // [B], falling: row b runs for lengths[b] steps; or null
  const Real *x, *h0, *c0, *w_ih, *w_hh;
  const Real *b_ih, *b_hh;  // or null
  Real *outputs, *h_n, *c_n, *gates, *cells;
};

template <class Real>
struct Forward {
  static constexpr long lanes = Numbers<Real>::lanes;
  const ForwardCall<Real>& call;
  const long hidden, input, batch;
  const GateLayout<Real> layout;
  const long padded, slices;
  Real *recurrent, *inward, *bias;  // packed weights

  explicit Forward(const ForwardCall<Real>& call_)
      : call(call_), hidden(call.hidden), input(call.is_projected ? 0 : call.input),
        batch(call.batch), layout(hidden, call.is_projected), padded(layout.panels * lanes),
        
        slices(count_slices(call.steps, batch, hidden, input, call.threads)) {}

  long scratch_size() const { return layout.row * (hidden + input + 1); }

  void use_scratch(Real* scratch) {
    recurrent = scratch;
    inward = recurrent + layout.row * hidden;
    bias = inward + layout.row * input;
  }

  void pack(long panel) {
    pack_panel(recurrent, call.w_hh, hidden, hidden, panel);
    if (call.is_projected) return;
    pack_panel(inward, call.w_ih, hidden, input, panel);
    Real* to = bias + panel * 4 * lanes;
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
  Real* output_at(long t, long row) const { return call.outputs + (t * batch + row) * hidden; }

  void run(const Slice& slice) const {
    for (long r = 0; r < slice.rows; ++r) {
      const long row = slice.row(r);
      for (long u = 0; u < padded; u += lanes)
        store(cells_at(0, row) + u, load(call.c0 + row * hidden + u, hidden - u));
    }
    for (long t = 0; t < call.steps; ++t) {
      const long running = slice.running(t);
      for (long panel = 0; running && panel < layout.panels; ++panel)
        run_panel(slice, running, t, panel);
      for (long r = running; r < slice.rows; ++r)
        memset(output_at(t, slice.row(r)), 0, sizeof(Real) * hidden);
      for (long r = 0; r < running; ++r)
        if (t + 1 == slice.end(r, call.steps)) {
          const long row = slice.row(r);
          memcpy(call.h_n + row * hidden, output_at(t, row), sizeof(Real) * hidden);
          memcpy(call.c_n + row * hidden, cells_at(t + 1, row), sizeof(Real) * hidden);
        }
    }
  }

  // One step of one panel for all rows of the slice. A deep sum is taken in parts, so that the part
  // of the weights stays in the L1 cache for all rows; unfinished sums wait where the gates will be.
  void run_panel(const Slice& slice, long running, long t, long panel) const {
    const Real* before = t ? output_at(t - 1, slice.first) : call.h0 + slice.first * hidden;
    const Parts depths(hidden, DEPTH), blocks(running, TILE_ROWS);
    Vec<Real> sums[TILE_ROWS * 4];
    for (long part = 0; part < depths.parts; ++part) {
      const long k = depths.begin(part);
      const Real* weights = recurrent + (panel * hidden + k) * 4 * lanes;
      for (long block = 0; block < blocks.parts; ++block) {
        const long r = blocks.begin(block), rows = blocks.size(block);
        if (part || call.is_projected)
          exchange(slice, t, r, rows, panel, [](Vec<Real>& sum, Real* gates) { sum = load(gates); },
                   sums);
        else
          start(slice, t, r, rows, panel, sums);
        multiply<Real, 4>(rows, sums, before + r * slice.stride * hidden + k, slice.stride * hidden,
                          1, weights, 4 * lanes, depths.size(part));
        if (part + 1 < depths.parts)
          exchange(slice, t, r, rows, panel, [](Vec<Real>& sum, Real* gates) { store(gates, sum); },
                   sums);
        else
          for (long i = 0; i < rows; ++i) activate(t, slice.row(r + i), panel, sums + 4 * i);
      }
    }
  }

  // The bias and the input's share, which for one input per step is a single multiplication.
  void start(const Slice& slice, long t, long r, long rows, long panel, Vec<Real>* sums) const {
    for (long i = 0; i < rows; ++i)
      for (long g = 0; g < 4; ++g) sums[4 * i + g] = load(bias + (panel * 4 + g) * lanes);
    multiply<Real, 4>(rows, sums, call.x + (t * batch + slice.row(r)) * input,
                      slice.stride * input, 1, inward + panel * input * 4 * lanes, 4 * lanes, input);
  }

  template <class Move>
  void exchange(const Slice& slice, long t, long r, long rows, long panel, Move move,
                Vec<Real>* sums) const {
    for (long i = 0; i < rows; ++i) {
      Real* gates = gates_at(t, slice.row(r + i)) + panel * layout.panel;
      for (long g = 0; g < 4; ++g) move(sums[4 * i + g], gates + g * layout.gate);
    }
  }

  void activate(long t, long row, long panel, const Vec<Real>* sums) const {
    const long unit = panel * lanes;
    const Vec<Real> into = sigmoid<Real>(sums[0]), forget = sigmoid<Real>(sums[1]);
    const Vec<Real> candidate = hyperbolic_tangent<Real>(sums[2]), out = sigmoid<Real>(sums[3]);
    const Vec<Real> cell = forget * load(cells_at(t, row) + unit) + into * candidate;
    store(cells_at(t + 1, row) + unit, cell);
    store(output_at(t, row) + unit, out * hyperbolic_tangent<Real>(cell), hidden - unit);
    if (!call.is_kept) return;
    Real* gates = gates_at(t, row) + panel * layout.panel;
    store(gates, into);
    store(gates + layout.gate, forget);
    store(gates + 2 * layout.gate, candidate);
    store(gates + 3 * layout.gate, out);
  }
};
