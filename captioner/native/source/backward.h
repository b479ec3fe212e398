// The backward pass: like the forward pass one parallel region, in which the gradient of the hidden
// state is dropped at detached steps together with the product that would have made it.
#pragma once

#include "call.h"
#include "tiles.h"

// What Python passes; letters and layouts as in forward.h. Gradients that nobody asked for, and
// those that did not arrive, are null.
template <class Real>
struct BackwardCall {
  CALL_FIELDS(
    int64_t steps, batch, input, hidden, threads;
    int64_t is_projected;     // grad_gates is wanted; what follows from it is left to torch
    int64_t keep_per_sample;  // keep is [T, B], else [T]
    int64_t cell_keep_per_sample;
    const int64_t* lengths;
    const Real *keep, *cell_keep;  // cell_keep or null
    const Real *grad_outputs, *grad_h_n, *grad_c_n;
    const Real *x, *h0, *w_ih, *w_hh, *outputs, *gates, *cells;
    Real *grad_gates;  // [T, B, 4 P], gate by gate
    Real *grad_x, *grad_h0, *grad_c0;
    Real *grad_w_ih, *grad_w_hh, *grad_bias;  // all three or none
  )
};

template <class Real>
struct Backward {
  static constexpr long lanes = Numbers<Real>::lanes;
  static constexpr long CHUNK = 160;  // rows whose share of a weight gradient is summed at once
  const BackwardCall<Real>& call;
  const long hidden, input, batch;
  const GateLayout<Real> layout;
  const long padded, slices, workers;  // a worker is a thread, and takes one slice after another
  const bool sums_weights;
  const Parts columns, input_columns;  // vectors of columns in groups of up to four
  const long factors;                  // what gates were made of: h, x and 1
  long chunk_rows, thread_size;
  Real *recurrent, *inward, *threads;

  explicit Backward(const BackwardCall<Real>& call_)
      : call(call_), hidden(call.hidden), input(call.is_projected ? 0 : call.input),
        batch(call.batch), layout(hidden, call.is_projected), padded(layout.panels * lanes),
        slices(count_slices(call.steps, batch, hidden, input, call.threads)),
        workers(slices < call.threads ? slices : call.threads),
        sums_weights(call.grad_w_hh != nullptr),
        columns(layout.panels, 4), input_columns(ceil_div(input, lanes), 4),
        factors(hidden + input + 1) {
    const long slice_rows = ceil_div(batch, slices);
    chunk_rows = slice_rows * (CHUNK > slice_rows ? CHUNK / slice_rows : 1);
    thread_size = 2 * slice_rows * padded + chunk_rows * (gates_row() + factors_row()) +
                  (sums_weights ? factors * layout.row : 0);
    thread_size = apart<Real>(thread_size);
  }

  long gates_row() const { return apart<Real>(layout.row); }
  long factors_row() const { return apart<Real>(factors); }
  long inward_size() const { return call.grad_x ? layout.row * input_columns.count * lanes : 0; }
  long scratch_size() const {
    return layout.row * padded + inward_size() + workers * thread_size;
  }

  void use_scratch(Real* scratch) {
    recurrent = scratch;
    inward = recurrent + layout.row * padded;
    threads = inward + inward_size();
  }

  // Weights to pack, then sums to start at zero.
  long packs() const { return workers + columns.parts + (call.grad_x ? input_columns.parts : 0); }
  void pack(long number) {
    if (number < workers) {
      if (sums_weights)
        memset(workplace(number).grad_weights, 0, sizeof(Real) * factors * layout.row);
      return;
    }
    number -= workers;
    if (number < columns.parts)
      pack_transposed(recurrent, call.w_hh, layout, hidden, hidden, columns, number);
    else
      pack_transposed(inward, call.w_ih, layout, hidden, input, input_columns,
                      number - columns.parts);
  }

  // What one thread works on, all its own.
  struct Workplace {
    Real *grad_hidden, *grad_cell;  // [rows, P], of the step in hand
    Real *grad_gates;               // [chunk_rows, gates_row], of the last few steps
    Real *made_of;                  // [chunk_rows, factors_row], what multiplied the weights there
    Real *grad_weights;             // [H + I + 1, 4 P], the sum so far
    long filled;                    // rows of the chunk
  };

  Workplace workplace(long worker) const {
    const long slice_rows = ceil_div(batch, slices);
    Workplace place;
    place.grad_hidden = threads + worker * thread_size;
    place.grad_cell = place.grad_hidden + slice_rows * padded;
    place.grad_gates = place.grad_cell + slice_rows * padded;
    place.made_of = place.grad_gates + chunk_rows * gates_row();
    place.grad_weights = place.made_of + chunk_rows * factors_row();
    place.filled = 0;
    return place;
  }

  static Real factor(const Real* keep, int64_t is_per_sample, long batch, long t, long row) {
    return keep ? keep[is_per_sample ? t * batch + row : t] : Real(1);
  }
  Real keep_hidden(long t, long row) const {
    return factor(call.keep, call.keep_per_sample, batch, t, row);
  }
  Real keep_cell(long t, long row) const {
    return factor(call.cell_keep, call.cell_keep_per_sample, batch, t, row);
  }

  void run(long worker, const Slice& slice) const {
    Workplace place = workplace(worker);
    memset(place.grad_hidden, 0, sizeof(Real) * slice.rows * padded);
    memset(place.grad_cell, 0, sizeof(Real) * slice.rows * padded);
    for (long t = call.steps - 1; t >= 0; --t) {
      const long running = slice.running(t);
      if (place.filled + running > chunk_rows) add_to_weights(place);
      for (long r = 0; r < slice.rows; ++r) {
        if (r < running)
          differentiate_gates(slice, place, t, r);
        else if (call.is_projected)
          memset(gates_of(slice, place, t, r), 0, sizeof(Real) * layout.row);
      }
      if (call.grad_x && !call.is_projected) to_input(slice, place, t, running);
      to_hidden(slice, place, t, running);
      if (sums_weights) remember_factors(slice, place, t, running);
      if (!call.is_projected) place.filled += running;
    }
    add_to_weights(place);
    for (long r = 0; r < slice.rows; ++r) {
      const long row = slice.row(r);
      if (call.grad_h0)
        memcpy(call.grad_h0 + row * hidden, place.grad_hidden + r * padded, sizeof(Real) * hidden);
      if (call.grad_c0)
        memcpy(call.grad_c0 + row * hidden, place.grad_cell + r * padded, sizeof(Real) * hidden);
    }
  }

  Real* gates_of(const Slice& slice, const Workplace& place, long t, long r) const {
    if (call.is_projected) return call.grad_gates + (t * batch + slice.row(r)) * layout.row;
    return place.grad_gates + (place.filled + r) * gates_row();
  }

  // From the gradients of h_t and c_t to those of the gates before their squashing and of c_{t-1}.
  void differentiate_gates(const Slice& slice, Workplace& place, long t, long r) const {
    const long row = slice.row(r), at = t * batch + row;
    const bool is_last = t + 1 == slice.end(r, call.steps);
    const Vec<Real> kept = broadcast(keep_cell(t, row));
    const bool is_cut = keep_cell(t, row) == 0;
    for (long panel = 0; panel < layout.panels; ++panel) {
      const long unit = panel * lanes, left = hidden - unit;
      const Real* gates = call.gates + at * layout.row + panel * layout.panel;
      const Vec<Real> into = load(gates), forget = load(gates + layout.gate);
      const Vec<Real> candidate = load(gates + 2 * layout.gate);
      const Vec<Real> out = load(gates + 3 * layout.gate);
      const Vec<Real> before = load(call.cells + at * padded + unit);
      const Vec<Real> cell = load(call.cells + (at + batch) * padded + unit);
      Vec<Real> grad_hidden = load(place.grad_hidden + r * padded + unit);
      Vec<Real> grad_cell = load(place.grad_cell + r * padded + unit);
      if (call.grad_outputs) grad_hidden += load(call.grad_outputs + at * hidden + unit, left);
      if (is_last && call.grad_h_n) grad_hidden += load(call.grad_h_n + row * hidden + unit, left);
      if (is_last && call.grad_c_n) grad_cell += load(call.grad_c_n + row * hidden + unit, left);
      const Vec<Real> squashed = hyperbolic_tangent<Real>(cell);
      grad_cell += grad_hidden * out * (Real(1) - squashed * squashed);
      const Vec<Real> passed = grad_cell * forget * kept;
      store(place.grad_cell + r * padded + unit, is_cut ? Vec<Real>{} : passed);
      Real* to = gates_of(slice, place, t, r) + panel * layout.panel;
      // Infinity times the zeros of a padded row is NaN, which no product may meet.
      const auto inside = [&](Vec<Real> value) { return first_lanes<Real>(value, left); };
      store(to, inside(grad_cell * candidate * into * (Real(1) - into)));
      store(to + layout.gate, inside(grad_cell * before * forget * (Real(1) - forget)));
      store(to + 2 * layout.gate, inside(grad_cell * into * (Real(1) - candidate * candidate)));
      store(to + 3 * layout.gate, inside(grad_hidden * squashed * out * (Real(1) - out)));
    }
  }

  // The gradient of h_{t-1}: gradients of gates times W_hh. A detached step costs nothing here.
  void to_hidden(const Slice& slice, const Workplace& place, long t, long running) const {
    bool is_detached = true;
    for (long r = 0; r < running; ++r)
      is_detached = is_detached && keep_hidden(t, slice.row(r)) == 0;
    if (is_detached) {
      memset(place.grad_hidden, 0, sizeof(Real) * running * padded);
      return;
    }
    multiply_by_weights(slice, place, t, running, recurrent, columns, [&](long r, long column) {
      return place.grad_hidden + r * padded + column;
    });
    for (long r = 0; r < running; ++r) {
      const Real kept = keep_hidden(t, slice.row(r));
      if (kept == 1) continue;
      Real* row = place.grad_hidden + r * padded;
      for (long u = 0; u < padded; u += lanes)
        store(row + u, kept == 0 ? Vec<Real>{} : load(row + u) * kept);
    }
  }

  void to_input(const Slice& slice, const Workplace& place, long t, long running) const {
    for (long r = running; r < slice.rows; ++r)
      memset(call.grad_x + (t * batch + slice.row(r)) * input, 0, sizeof(Real) * input);
    multiply_by_weights(slice, place, t, running, inward, input_columns, [&](long r, long column) {
      return call.grad_x + (t * batch + slice.row(r)) * input + column;
    }, input);
  }

  // place_of(r, column) = gradients of gates of row r times column `column` of the packed weights.
  template <class PlaceOf>
  void multiply_by_weights(const Slice& slice, const Workplace& place, long t, long running,
                           const Real* weights, const Parts& groups, PlaceOf place_of,
                           long width = 1L << 62) const {
    const Parts depths(layout.row, DEPTH), blocks(running, TILE_ROWS);
    const long left_row = call.is_projected ? slice.stride * layout.row : gates_row();
    Vec<Real> sums[TILE_ROWS * 4];
    for (long group = 0; group < groups.parts; ++group) {
      const long vectors = groups.size(group), column = groups.begin(group) * lanes;
      for (long part = 0; part < depths.parts; ++part) {
        const long k = depths.begin(part);
        const Real* right = weights + column * layout.row + k * vectors * lanes;
        for (long block = 0; block < blocks.parts; ++block) {
          const long r = blocks.begin(block), rows = blocks.size(block);
          for (long i = 0; i < rows; ++i)
            for (long c = 0; c < vectors; ++c) {
              const long at = column + c * lanes;
              sums[i * vectors + c] =
                  part ? load(place_of(r + i, at), width - at) : Vec<Real>{};
            }
          multiply(rows, vectors, sums, gates_of(slice, place, t, r) + k, left_row, 1, right,
                   vectors * lanes, depths.size(part));
          prefetch(right + depths.size(part) * vectors * lanes, depths.size(part) * vectors * lanes,
                   blocks, block);
          for (long i = 0; i < rows; ++i)
            for (long c = 0; c < vectors; ++c) {
              const long at = column + c * lanes;
              store(place_of(r + i, at), sums[i * vectors + c], width - at);
            }
        }
      }
    }
  }

  // Copied into rows [h_{t-1}, x_t, 1], so that all weight gradients are one product.
  void remember_factors(const Slice& slice, const Workplace& place, long t, long running) const {
    for (long r = 0; r < running; ++r) {
      const long row = slice.row(r);
      Real* to = place.made_of + (place.filled + r) * factors_row();
      const Real* before =
          t ? call.outputs + ((t - 1) * batch + row) * hidden : call.h0 + row * hidden;
      memcpy(to, before, sizeof(Real) * hidden);
      memcpy(to + hidden, call.x + (t * batch + row) * input, sizeof(Real) * input);
      to[hidden + input] = 1;
    }
  }

  // Sums of a chunk are added to the total: adding tens of thousands of rows one by one to the same
  // number would lose two digits of float32.
  void add_to_weights(Workplace& place) const {
    if (!sums_weights || !place.filled) return;
    const Parts blocks(factors, TILE_ROWS), depths(place.filled, CHUNK);
    Vec<Real> sums[TILE_ROWS * 4];
    for (long part = 0; part < depths.parts; ++part)
      for (long panel = 0; panel < layout.panels; ++panel)
        for (long block = 0; block < blocks.parts; ++block) {
          const long from = depths.begin(part), f = blocks.begin(block), rows = blocks.size(block);
          Real* total = place.grad_weights + f * layout.row + panel * 4 * lanes;
          for (long i = 0; i < 4 * rows; ++i) sums[i] = Vec<Real>{};
          multiply<Real, 4>(rows, sums, place.made_of + from * factors_row() + f, 1, factors_row(),
                            place.grad_gates + from * gates_row() + panel * 4 * lanes, gates_row(),
                            depths.size(part));
          for (long i = 0; i < rows; ++i)
            for (long g = 0; g < 4; ++g) {
              Real* to = total + i * layout.row + g * lanes;
              store(to, load(to) + sums[4 * i + g]);
            }
        }
    place.filled = 0;
  }

  long sums() const { return sums_weights ? layout.panels : 0; }

  // Add up what the threads found for one panel, always in the same order.
  void collect(long panel) const {
    for (long f = 0; f < factors; ++f)
      for (long g = 0; g < 4; ++g)
        for (long u = panel * lanes; u < (panel + 1) * lanes && u < hidden; ++u) {
          Real sum = 0;
          for (long worker = 0; worker < workers; ++worker)
            sum += workplace(worker).grad_weights[f * layout.row + layout.place(g, u)];
          const long row = g * hidden + u;
          if (f < hidden)
            call.grad_w_hh[row * hidden + f] = sum;
          else if (f < hidden + input)
            call.grad_w_ih[row * input + f - hidden] = sum;
          else
            call.grad_bias[row] = sum;
        }
  }
};
