// A step of the decoder with soft attention in int8, as its exported graph has it:
// captioner/engines/soft_attention_graph.py. An operator of a library hands its result on through
// memory and wakes threads for it; here a step is one piece of work whose threads meet four times.
// Whoever is free takes the next part of the work, and no result depends on who does.
#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "../call.h"
#include "../vectors.h"
#include "products.h"
#include "team.h"

namespace {

constexpr float IMPOSSIBLE = -std::numeric_limits<float>::infinity();
constexpr int64_t LANES = Numbers<float>::lanes;
constexpr int64_t GATES = 4;        // i, f, g, o
constexpr int64_t ROWS_AT_ONCE = 3;  // captions of an image, whose sums are held together
constexpr int64_t MOST_INSERTED = 64;  // candidates
constexpr int64_t BLOCKS = 16, KEYS = 8, VECTORS = 4;  // in one part of a thread's work

inline int64_t parts_of(int64_t things, int64_t each) { return (things + each - 1) / each; }

// Letters: B images, K captions of each and K' before the step, H hidden units, A of the attention,
// P items that are looked at, V words, T threads. Rows of a product are as long as its blocks.
struct Step {
  CALL_FIELDS(
    int64_t hidden, attention, items, words;
    int64_t images, captions, captions_before, candidates, asked_words;
    // From the state before: the attention's query, the context's gate, what recurs.
    const int8_t* state_weights; const int32_t* state_sums;
    const float* state_scales; const float* state_biases; const float* state_step;
    const uint8_t* state_zero;
    // From the state after: the logits.
    const int8_t* word_weights; const int32_t* word_sums;
    const float* word_scales; const float* word_biases; const float* word_step;
    const uint8_t* word_zero;
    const int8_t* table; const float* table_scales;  // what a word adds to the gates: [V, 4H], [V]
    const float* score;       // [A], twice the weights of the attention's layer
    const float* never;       // [V], -inf for words that are never written
    const int64_t* image_of;  // [B], the place of each image among keys and values
    const float* keys;        // [images, P, A], exp(-2 key)
    const float* values;      // [images, H / 8, P, 4, 8], what each item adds to the gates
    const float* state;                                         // h and c: [2, B, K', H]
    const int64_t* read; const int64_t* parents;                // [B, K]
    const int64_t* asked;                                       // [B, asked_words]
    float* next_state; float* attention_shares;                 // [2, B, K, H], [B, K, P]
    float* log_probs; int64_t* found; float* asked_log_probs;   // [B, K, candidates] twice
    // Room to work in: [B, K', H] and [B, K, H]; rows of products; [T, B, K, P]; for each part of
    // the words [B, K] twice.
    uint8_t* integers_before; uint8_t* integers_after;
    float* of_state; float* logits; float* shares; float* greatest; float* sums;
  )
};

inline int64_t in_blocks(int64_t columns) { return (columns + COLUMNS - 1) / COLUMNS * COLUMNS; }

inline float sum_of(Vec<float> values) {
  float sum = 0;
  for (int lane = 0; lane < LANES; ++lane) sum += values[lane];
  return sum;
}

// NaN where there is one.
inline Vec<float> greater(Vec<float> one, Vec<float> other) { return other <= one ? one : other; }

// The numbers from `first` on, -inf behind the last.
inline Vec<float> load_or_impossible(const float* numbers, int64_t first, int64_t count) {
  Vec<float> value = load(numbers + first, count - first);
  for (int64_t lane = std::max<int64_t>(count - first, 0); lane < LANES; ++lane)
    value[lane] = IMPOSSIBLE;
  return value;
}

inline float greatest_of(const float* numbers, int64_t count) {
  Vec<float> greatest = broadcast(IMPOSSIBLE);
  for (int64_t n = 0; n < count; n += LANES)
    greatest = greater(greatest, load_or_impossible(numbers, n, count));
  float found = IMPOSSIBLE;
  for (int lane = 0; lane < LANES; ++lane)
    if (!(greatest[lane] <= found)) found = greatest[lane];
  return found;
}

// exp(-2 x), which `exponential` limits to where |x| is 43.5: a product of two may reach 0 or
// infinity, but is a number. With a key of at most GREATEST_KEY, a query beyond that limit gives a
// hyperbolic tangent of -1 or 1 either way.
constexpr float GREATEST_KEY = 30.0f;
inline Vec<float> decay(Vec<float> x) { return exponential<float>(-2.0f * x); }

// 1 / x of what is at least 1. A division would take twice as long.
inline Vec<float> quick_reciprocal(Vec<float> x) {
  const Vec<float> most = broadcast(1e30f);
  x = x > most ? most : x;
  const Vec<float> guess = (Vec<float>)_mm256_rcp_ps((__m256)x);
  return guess * (2.0f - x * guess);
}

class Work {
 public:
  explicit Work(const Step& step)
      : s(step),
        of_state{s.hidden,       in_blocks(s.attention + 1 + GATES * s.hidden),
                 s.state_weights, s.state_sums,
                 s.state_scales,  s.state_biases,
                 *s.state_step,   *s.state_zero},
        of_words{s.hidden,      in_blocks(s.words), s.word_weights, s.word_sums,
                 s.word_scales, s.word_biases,      *s.word_step,   *s.word_zero},
        rows(s.images * s.captions),
        cells_before(s.images * s.captions_before * s.hidden) {}

  // Before the others begin: it is done sooner than they are awake.
  void quantise_state() const {
    for (int64_t n = 0; n < cells_before; n += LANES)
      quantise((__m256)load(s.state + n), of_state, s.integers_before + n);
  }

  void operator()(const Team::Member& me) {
    state_parts.each(parts_of(of_state.blocks(), BLOCKS), [&](int64_t n) { multiply_state(n); });
    me.meet();
    score_parts.each(parts_of(s.images * s.items, KEYS), [&](int64_t n) { score_items(n); });
    me.meet();
    share_attention(me);
    const int64_t vectors = s.images * s.hidden / LANES;
    update_parts.each(parts_of(vectors, VECTORS), [&](int64_t n) { update_state(n, me); });
    me.meet();
    word_parts.each(parts_of(of_words.blocks(), BLOCKS), [&](int64_t n) { multiply_words(n); });
    me.meet();
    row_parts.each(rows, [&](int64_t row) { choose(row, me); });
  }

 private:
  // of_state[caption before] = exp(-2 query) [A], the context's gate, what recurs [4H]
  void multiply_state(int64_t part) const {
    const int64_t before = s.images * s.captions_before, first = part * BLOCKS;
    const int64_t last = std::min(first + BLOCKS, of_state.blocks());
    multiply(of_state, s.integers_before, before, first, last, s.of_state);
    const int64_t end = std::min(last * COLUMNS, s.attention);
    for (int64_t row = 0; row < before; ++row)
      for (int64_t unit = first * COLUMNS; unit < end; unit += LANES) {
        float* query = s.of_state + row * of_state.outputs + unit;
        store(query, decay(load(query)));
      }
  }

  const float* from_state(int64_t row) const {
    const int64_t image = row / s.captions;
    return s.of_state + (image * s.captions_before + s.parents[row]) * of_state.outputs;
  }

  // attention_shares[row, item] = score . (tanh(key + query) + 1), which softmax takes for the same
  void score_items(int64_t part) const {
    const int64_t last = std::min((part + 1) * KEYS, s.images * s.items);
    for (int64_t key = part * KEYS; key < last; ++key) {
      const int64_t first = key / s.items * s.captions, end = first + s.captions;
      for (int64_t row = first; row < end; row += ROWS_AT_ONCE) {
        if (end - row >= 3) score_item<3>(row, key);
        if (end - row == 2) score_item<2>(row, key);
        if (end - row == 1) score_item<1>(row, key);
      }
    }
  }

  template <int ROWS>
  void score_item(int64_t row, int64_t key) const {
    const int64_t item = key % s.items;
    const float* keys = s.keys + (s.image_of[key / s.items] * s.items + item) * s.attention;
    const float* queries[ROWS];
    for (int n = 0; n < ROWS; ++n) queries[n] = from_state(row + n);
    Vec<float> sums[ROWS] = {};
    for (int64_t unit = 0; unit < s.attention; unit += LANES) {
      const Vec<float> values = load(keys + unit);
      const Vec<float> weights = load(s.score + unit);
#pragma GCC unroll 3
      for (int n = 0; n < ROWS; ++n)
        sums[n] += weights * quick_reciprocal(1.0f + values * load(queries[n] + unit));
    }
    for (int n = 0; n < ROWS; ++n)
      s.attention_shares[(row + n) * s.items + item] = sum_of(sums[n]);
  }

  // Softmax over the items. Every thread needs all of it, so each does it for itself.
  void share_attention(const Team::Member& me) const {
    float* shares = s.shares + me.number * rows * s.items;
    for (int64_t row = 0; row < rows; ++row, shares += s.items) {
      const float* scores = s.attention_shares + row * s.items;
      const float greatest = greatest_of(scores, s.items);
      Vec<float> sums = {};
      for (int64_t item = 0; item < s.items; item += LANES) {
        const int64_t count = std::min(LANES, s.items - item);
        const Vec<float> all = exponential<float>(load(scores + item, count) - greatest);
        const Vec<float> share = first_lanes<float>(all, count);
        store(shares + item, share, count);
        sums += share;
      }
      const float sum = sum_of(sums);
      for (int64_t item = 0; item < s.items; ++item) shares[item] /= sum;
    }
  }

  void update_state(int64_t part, const Team::Member& me) const {
    const int64_t each = s.hidden / LANES;
    const int64_t last = std::min((part + 1) * VECTORS, s.images * each);
    for (int64_t n = part * VECTORS; n < last; ++n) {
      const int64_t image = n / each, vector = n % each;
      const int64_t first = image * s.captions, end = first + s.captions;
      for (int64_t row = first; row < end; row += ROWS_AT_ONCE) {
        if (end - row >= 3) update<3>(row, image, vector, me);
        if (end - row == 2) update<2>(row, image, vector, me);
        if (end - row == 1) update<1>(row, image, vector, me);
      }
    }
  }

  // The LSTM, for one vector of units of some captions of an image.
  template <int ROWS>
  void update(int64_t row, int64_t image, int64_t vector, const Team::Member& me) const {
    const float* shares = s.shares + (me.number * rows + row) * s.items;
    const int64_t place = s.image_of[image] * s.hidden / LANES + vector;
    const float* values = s.values + place * s.items * GATES * LANES;
    Vec<float> context[ROWS][GATES] = {};
    for (int64_t item = 0; item < s.items; ++item, values += GATES * LANES) {
      Vec<float> share[ROWS];
#pragma GCC unroll 3
      for (int n = 0; n < ROWS; ++n) share[n] = broadcast(shares[n * s.items + item]);
#pragma GCC unroll 4
      for (int gate = 0; gate < GATES; ++gate) {
        const Vec<float> value = in_register<float>(load(values + gate * LANES));
#pragma GCC unroll 3
        for (int n = 0; n < ROWS; ++n) context[n][gate] += share[n] * value;
      }
    }
    const int64_t unit = vector * LANES;
    for (int n = 0; n < ROWS; ++n) {
      const float* recurrent = from_state(row + n) + s.attention + 1;
      const float beta = 1.0f / (1.0f + std::exp(-recurrent[-1]));
      const int64_t word = s.read[row + n];
      const int8_t* of_word = s.table + word * GATES * s.hidden + unit;
      Vec<float> gates[GATES];
      for (int gate = 0; gate < GATES; ++gate) {
        const __m128i eight = _mm_loadl_epi64(
            reinterpret_cast<const __m128i*>(of_word + gate * s.hidden));
        const Vec<float> whole = (Vec<float>)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
        gates[gate] = whole * s.table_scales[word] + beta * context[n][gate] +
                      load(recurrent + gate * s.hidden + unit);
      }
      const int64_t before = (image * s.captions_before + s.parents[row + n]) * s.hidden + unit;
      const int64_t after = (row + n) * s.hidden + unit;
      const Vec<float> cell =
          sigmoid<float>(gates[1]) * load(s.state + cells_before + before) +
          sigmoid<float>(gates[0]) * hyperbolic_tangent<float>(gates[2]);
      const Vec<float> hidden = sigmoid<float>(gates[3]) * hyperbolic_tangent<float>(cell);
      store(s.next_state + after, hidden);
      store(s.next_state + rows * s.hidden + after, cell);
      quantise((__m256)hidden, of_words, s.integers_after + after);
    }
  }

  // The logits of some words; of each row the greatest, and the sum of what they are to it.
  void multiply_words(int64_t part) const {
    const int64_t first = part * BLOCKS, last = std::min(first + BLOCKS, of_words.blocks());
    multiply(of_words, s.integers_after, rows, first, last, s.logits);
    const int64_t word = first * COLUMNS;
    const int64_t count = std::min(last * COLUMNS, s.words) - word;
    for (int64_t row = 0; row < rows; ++row) {
      const float* logits = s.logits + row * of_words.outputs + word;
      const float greatest = greatest_of(logits, count);
      Vec<float> sums = {};
      for (int64_t n = 0; n < count; n += LANES)
        sums += first_lanes<float>(exponential<float>(load(logits + n) - greatest), count - n);
      s.greatest[part * rows + row] = greatest;
      s.sums[part * rows + row] = sum_of(sums);
    }
  }

  // As many words as are wanted, where inserting each in its place would take too long.
  void sort(const float* logits, float greatest, float log_sum, float* best, int64_t* words) const {
    std::vector<std::pair<float, int64_t>> all(s.words);
    for (int64_t word = 0; word < s.words; ++word)
      all[word] = {logits[word] - greatest - log_sum + s.never[word], word};
    std::partial_sort(all.begin(), all.begin() + s.candidates, all.end(),
                      [](const auto& one, const auto& other) {
                        if (one.first > other.first) return true;
                        return !(other.first > one.first) && one.second < other.second;
                      });
    for (int64_t n = 0; n < s.candidates; ++n) std::tie(best[n], words[n]) = all[n];
  }

  // The best words of a row, of equals the one with the lower id, and those that were asked for.
  void choose(int64_t row, const Team::Member& me) const {
    float greatest = IMPOSSIBLE, sum = 0;
    const int64_t parts = parts_of(of_words.blocks(), BLOCKS);
    for (int64_t n = row; n < parts * rows; n += rows) greatest = std::max(greatest, s.greatest[n]);
    for (int64_t n = row; n < parts * rows; n += rows)
      sum += s.sums[n] * std::exp(s.greatest[n] - greatest);
    const float log_sum = std::log(sum);
    const float* logits = s.logits + row * of_words.outputs;
    float* best = s.log_probs + row * s.candidates;
    int64_t *words = s.found + row * s.candidates, count = 0;
    const bool are_many = s.candidates > MOST_INSERTED;
    if (are_many) sort(logits, greatest, log_sum, best, words);
    for (int64_t first = 0; first < s.words && !are_many && s.candidates > 0; first += LANES) {
      const Vec<float> some = load(logits + first) - greatest - log_sum +
                              load(s.never + first, s.words - first);
      if (count == s.candidates) {
        const auto is_better = some > broadcast(best[count - 1]);
        if (!_mm256_movemask_ps((__m256)is_better)) continue;
      }
      for (int64_t lane = 0; lane < std::min(LANES, s.words - first); ++lane) {
        if (count == s.candidates && !(some[lane] > best[count - 1])) continue;
        int64_t place = count < s.candidates ? count++ : count - 1;
        for (; place > 0 && best[place - 1] < some[lane]; --place) {
          best[place] = best[place - 1];
          words[place] = words[place - 1];
        }
        best[place] = some[lane];
        words[place] = first + lane;
      }
    }
    const int64_t* asked = s.asked + row / s.captions * s.asked_words;
    for (int64_t n = 0; n < s.asked_words; ++n)
      s.asked_log_probs[row * s.asked_words + n] =
          logits[asked[n]] - greatest - log_sum + s.never[asked[n]];
    std::copy_n(s.shares + (me.number * rows + row) * s.items, s.items,
                s.attention_shares + row * s.items);
  }

  const Step& s;
  const Matrix of_state, of_words;
  const int64_t rows, cells_before;
  Team::Parts state_parts, score_parts, update_parts, word_parts, row_parts;
};

bool are_within(const int64_t* ids, int64_t count, int64_t end) {
  return std::all_of(ids, ids + count, [=](int64_t id) { return 0 <= id && id < end; });
}

}  // namespace

extern "C" {
EXPORT_CALL(soft_attention_step, Step)

void* new_team(int64_t threads) try {
  return new Team(threads);
} catch (...) {
  return nullptr;
}

// A forked process has none of the threads, and would wait for them.
void delete_team(Team* team) {
  if (team->is_here()) delete team;
}

// Columns in whole blocks: what `arrange_matrix` writes.
int64_t matrix_columns(int64_t columns) { return in_blocks(columns); }

void arrange_matrix(const int8_t* matrix, int64_t inputs, int64_t columns, int8_t* weights,
                    int32_t* sums) {
  arrange(matrix, inputs, columns, weights, sums);
}

// What a step reads of its images, from a graph's keys [B, P, A] and gates [B, 4H, P]. Returns
// whether all keys are small enough for it: others would add up to another sum with a query that
// `decay` limits.
int64_t arrange_images(int64_t images, int64_t items, int64_t attention, int64_t hidden,
                    const float* keys, const float* gates, float* arranged_keys,
                    float* arranged_values) {
  const __m256i apart = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                           _mm256_set1_epi32(static_cast<int>(items)));
  for (int64_t n = 0; n < images * items * attention; n += LANES) {
    const Vec<float> key = load(keys + n);
    const auto is_small = (key <= GREATEST_KEY) & (key >= -GREATEST_KEY);
    if (_mm256_movemask_ps((__m256)is_small) != (1 << LANES) - 1) return 0;
    store(arranged_keys + n, decay(key));
  }
  for (int64_t image = 0; image < images; ++image, gates += GATES * hidden * items)
    for (int64_t vector = 0; vector < hidden / LANES; ++vector)
      for (int64_t item = 0; item < items; ++item)
        for (int64_t gate = 0; gate < GATES; ++gate, arranged_values += LANES) {
          const float* first = gates + (gate * hidden + vector * LANES) * items + item;
          store(arranged_values, (Vec<float>)_mm256_i32gather_ps(first, apart, sizeof(float)));
        }
  return 1;
}

// Returns whether all words and parents are there; otherwise nothing was done.
int64_t soft_attention_step(const Step* step, Team* team) {
  const int64_t rows = step->images * step->captions;
  if (!are_within(step->read, rows, step->words) ||
      !are_within(step->parents, rows, step->captions_before) ||
      !are_within(step->asked, step->images * step->asked_words, step->words))
    return 0;
  Work work(*step);
  work.quantise_state();
  team->run([&](const Team::Member& me) { work(me); });
  return 1;
}

// How many parts the words are worked on in.
int64_t word_parts(int64_t words) { return parts_of(in_blocks(words) / COLUMNS, BLOCKS); }
}
