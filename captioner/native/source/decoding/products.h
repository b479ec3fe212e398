// Products of rows of uint8 with a matrix of int8, their sums exact in 32 bits.
//
// The matrix is arranged once: 8 columns, of each the same 4 inputs, are one vector, and a block of
// two such vectors is read from its first input to its last. Two products are added in 16 bits, which holds 2 x 255 x 63: weights are at most 63
// (captioner/export/quantisation.py). Three rows by two vectors of sums take all registers' worth
// of work from each weight that is read, at 32 multiplications a cycle: what the instructions can.
#pragma once

#include <cstdint>
#include <cstring>

#include <immintrin.h>

constexpr int64_t COLUMNS = 16;  // of a block: two vectors of sums
constexpr int64_t INPUTS = 4;    // that one instruction adds up
constexpr int64_t AHEAD = 32;    // vectors

struct Matrix {
  int64_t inputs, outputs;     // multiples of INPUTS and of COLUMNS
  const int8_t* weights;       // arranged: [outputs / 16, inputs / 4, 16, 4]
  const int32_t* sums;         // [outputs], of each column
  const float *scales, *biases;  // [outputs]
  float step;                  // of the rows: a number is (integer - zero) * step
  int32_t zero;

  int64_t blocks() const { return outputs / COLUMNS; }
};

// `matrix` [inputs, columns] as `weights` and `sums`, zeros in the columns that fill a block.
inline void arrange(const int8_t* matrix, int64_t inputs, int64_t columns, int8_t* weights,
                    int32_t* sums) {
  const int64_t outputs = (columns + COLUMNS - 1) / COLUMNS * COLUMNS;
  for (int64_t first = 0; first < outputs; first += COLUMNS) {
    int32_t sum[COLUMNS] = {};
    for (int64_t input = 0; input < inputs; ++input)
      for (int64_t column = 0; column < COLUMNS; ++column) {
        const bool is_there = first + column < columns;
        const int8_t weight = is_there ? matrix[input * columns + first + column] : 0;
        weights[(input / INPUTS * COLUMNS + column) * INPUTS + input % INPUTS] = weight;
        sum[column] += weight;
      }
    memcpy(sums + first, sum, sizeof(sum));
    weights += COLUMNS * inputs;
  }
}

template <int ROWS>
inline void multiply_block(const Matrix& matrix, const uint8_t* rows, int64_t block, float* out,
                           int64_t out_row) {
  const __m256i ones = _mm256_set1_epi16(1);
  const auto* vectors =
      reinterpret_cast<const __m256i*>(matrix.weights + block * COLUMNS * matrix.inputs);
  __m256i sums[ROWS][2];
#pragma GCC unroll 4
  for (int row = 0; row < ROWS; ++row) sums[row][0] = sums[row][1] = _mm256_setzero_si256();
  for (int64_t input = 0; input < matrix.inputs; input += INPUTS, vectors += 2) {
    // The processor itself reads ahead to the end of a page only.
    _mm_prefetch(reinterpret_cast<const char*>(vectors + AHEAD), _MM_HINT_T0);
    const __m256i weights[2] = {_mm256_load_si256(vectors), _mm256_load_si256(vectors + 1)};
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; ++row) {
      int32_t four;
      memcpy(&four, rows + row * matrix.inputs + input, sizeof(four));
      const __m256i values = _mm256_set1_epi32(four);
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const __m256i pairs = _mm256_maddubs_epi16(values, weights[half]);
        sums[row][half] = _mm256_add_epi32(sums[row][half], _mm256_madd_epi16(pairs, ones));
      }
    }
  }
  for (int half = 0; half < 2; ++half) {
    const int64_t column = block * COLUMNS + 8 * half;
    const auto of_zero = _mm256_mullo_epi32(
        _mm256_set1_epi32(matrix.zero),
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(matrix.sums + column)));
    const __m256 scale =
        _mm256_mul_ps(_mm256_set1_ps(matrix.step), _mm256_loadu_ps(matrix.scales + column));
    const __m256 bias = _mm256_loadu_ps(matrix.biases + column);
    for (int row = 0; row < ROWS; ++row) {
      const __m256 sum = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[row][half], of_zero));
      _mm256_storeu_ps(out + row * out_row + column, _mm256_fmadd_ps(sum, scale, bias));
    }
  }
}

// out[row] = (rows[row] - zero) * step * matrix + biases, the columns of the blocks from `first` to
// before `last`. A block's weights stay in the first cache while all rows pass.
inline void multiply(const Matrix& matrix, const uint8_t* rows, int64_t count, int64_t first,
                     int64_t last, float* out) {
  for (int64_t block = first; block < last; ++block) {
    const uint8_t* row = rows;
    float* to = out;
    int64_t left = count;
    for (; left >= 3; left -= 3, row += 3 * matrix.inputs, to += 3 * matrix.outputs)
      multiply_block<3>(matrix, row, block, to, matrix.outputs);
    if (left == 2) multiply_block<2>(matrix, row, block, to, matrix.outputs);
    if (left == 1) multiply_block<1>(matrix, row, block, to, matrix.outputs);
  }
}

// The integers of 8 numbers, to the nearest, halves to the even one: ONNX's QuantizeLinear.
inline void quantise(__m256 values, const Matrix& matrix, uint8_t* out) {
  const __m256 steps = _mm256_div_ps(values, _mm256_set1_ps(matrix.step));
  const __m256i wide =
      _mm256_add_epi32(_mm256_cvtps_epi32(steps), _mm256_set1_epi32(matrix.zero));
  const __m128i words =
      _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packus_epi16(words, words));
}
