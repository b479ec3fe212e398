// The hidden layer of additive attention, and what its backward pass sums over positions, captions
// and units, without that layer ever being stored: it is computed twice instead, in registers.
//
// sigmoid(2 (key + query)) is 1 / (1 + exp(-2 key) exp(-2 query)), and the exponentials come in
// ready, one per image and one per row, so an element costs a product, a sum and a division.
#include <omp.h>

#include "call.h"

namespace {

template <class Real>
struct Attention {
  CALL_FIELDS(
    int64_t rows, positions, size, threads;
    const int64_t* image_of_row;  // never decreasing
    const Real* keys;             // exp(-2 key): [images, positions, size]
    const Real* queries;          // exp(-2 query): [rows, size]
  )
};

// The rows of one thread. An image's rows stay together: they share its keys in the cache, and
// nobody else adds to the gradient of those.
struct Share {
  int64_t first, last;

  template <class Real>
  Share(const Attention<Real>& all, int64_t number, int64_t count)
      : first(start(all, number, count)), last(start(all, number + 1, count)) {}

 private:
  template <class Real>
  static int64_t start(const Attention<Real>& all, int64_t number, int64_t count) {
    int64_t row = all.rows * number / count;
    while (row > 0 && row < all.rows && all.image_of_row[row] == all.image_of_row[row - 1]) ++row;
    return row;
  }
};

// Runs `pass(share, number)` for every share; as many as there are threads, if there are.
template <class Real, class Pass>
void in_parallel(const Attention<Real>& all, Pass pass) {
#pragma omp parallel for schedule(static) num_threads(all.threads) if (all.threads > 1)
  for (int64_t number = 0; number < all.threads; ++number)
    pass(Share(all, number, all.threads), number);
}

template <class Real>
void scores(const Attention<Real>& all, const Real* weights, Real* out) {
  in_parallel(all, [&](Share share, int64_t) {
    for (int64_t row = share.first; row < share.last; ++row) {
      const Real* key = all.keys + all.image_of_row[row] * all.positions * all.size;
      const Real* query = all.queries + row * all.size;
      for (int64_t position = 0; position < all.positions; ++position, key += all.size) {
        Real sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t unit = 0; unit < all.size; ++unit)
          sum += weights[unit] / (1 + key[unit] * query[unit]);
        out[row * all.positions + position] = sum;
      }
    }
  });
}

// `grad_queries` [rows, size] is written, `grad_keys` [images, positions, size] and `grad_weights`
// [threads, size], a row of its own for each thread, are added to. The first two lack the factor
// that depends on the unit alone.
template <class Real>
void gradients(const Attention<Real>& all, const Real* grad_scores, Real* grad_queries,
               Real* grad_keys, Real* grad_weights) {
  in_parallel(all, [&](Share share, int64_t number) {
    Real* grad_weight = grad_weights + number * all.size;
    for (int64_t row = share.first; row < share.last; ++row) {
      const int64_t image = all.image_of_row[row] * all.positions * all.size;
      const Real *key = all.keys + image, *query = all.queries + row * all.size;
      Real *grad_key = grad_keys + image, *grad_query = grad_queries + row * all.size;
      for (int64_t unit = 0; unit < all.size; ++unit) grad_query[unit] = 0;
      for (int64_t position = 0; position < all.positions; ++position) {
        const Real grad = grad_scores[row * all.positions + position];
#pragma omp simd
        for (int64_t unit = 0; unit < all.size; ++unit) {
          const Real layer = 1 / (1 + key[unit] * query[unit]);
          const Real weighted = grad * layer, steep = weighted - weighted * layer;
          grad_weight[unit] += weighted;
          grad_query[unit] += steep;
          grad_key[unit] += steep;
        }
        key += all.size;
        grad_key += all.size;
      }
    }
  });
}

}  // namespace

#define FOR_TYPE(Real, name)                                                                     \
  void attention_scores_##name(const Attention<Real>* all, const Real* weights, Real* out) {     \
    scores(*all, weights, out);                                                                  \
  }                                                                                              \
  void attention_gradients_##name(const Attention<Real>* all, const Real* grad_scores,           \
                                  Real* grad_queries, Real* grad_keys, Real* grad_weights) {     \
    gradients(*all, grad_scores, grad_queries, grad_keys, grad_weights);                         \
  }

extern "C" {
EXPORT_CALL(attention, Attention<float>)
FOR_TYPE(float, float32)
FOR_TYPE(double, float64)
}
