// Vectors of numbers as wide as the processor's registers, and the functions of an LSTM's gates.
//
// Written in the vector extension that GCC and Clang share, so one text serves every processor: the
// compiler flags alone decide how wide a vector is. Polynomials after Cephes (S. Moshier).
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#define VECTOR_BYTES 64
#define TILE_ROWS 6  // 6 x 4 sums + 4 weights + 1 left value, of 32 registers
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#define TILE_ROWS 3  // 3 x 4 sums + 3 left values + 1 weight, of 16 registers
#else
#define VECTOR_BYTES 16
#define TILE_ROWS 3
#endif

template <class Real>
struct Numbers;
template <>
struct Numbers<float> {
  typedef float Vec __attribute__((vector_size(VECTOR_BYTES)));
  typedef float Anywhere __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
  typedef int32_t Bits __attribute__((vector_size(VECTOR_BYTES)));
  static constexpr int lanes = VECTOR_BYTES / 4;
  static constexpr int mantissa = 23;
  // 1.5 * 2^23 pushes fractions out; 127 is what an exponent of 0 is stored as.
  static constexpr float round_to_integer = 12582912.0f + 127.0f;
  static constexpr float smallest = -87.0f, largest = 88.0f;  // exp of them is a normal number
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
};
template <>
struct Numbers<double> {
  typedef double Vec __attribute__((vector_size(VECTOR_BYTES)));
  typedef double Anywhere __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
  typedef int64_t Bits __attribute__((vector_size(VECTOR_BYTES)));
  static constexpr int lanes = VECTOR_BYTES / 8;
  static constexpr int mantissa = 52;
  static constexpr double round_to_integer = 6755399441055744.0 + 1023.0;  // 1.5 * 2^52
  static constexpr double smallest = -708.0, largest = 709.0;
  static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
};

template <class Real>
using Vec = typename Numbers<Real>::Vec;

template <class Real>
inline Vec<Real> load(const Real* from) {
  return *reinterpret_cast<const typename Numbers<Real>::Anywhere*>(from);
}

template <class Real>
inline void store(Real* to, Vec<Real> value) {
  *reinterpret_cast<typename Numbers<Real>::Anywhere*>(to) = value;
}

// The same number in every lane. Minus, since x - 0 is x whatever its sign: no arithmetic is left.
template <class Real>
inline Vec<Real> broadcast(Real value) {
  return value - Vec<Real>{};
}

// Keep the compiler from reading `value` again from memory for each of its uses.
template <class Real>
inline Vec<Real> in_register(Vec<Real> value) {
#if defined(__AVX2__)
  asm("" : "+v"(value));
#endif
  return value;
}

// The first `count` numbers, zeros behind them: a row whose length is no multiple of the lanes.
template <class Real>
inline Vec<Real> load(const Real* from, long count) {
  if (count >= Numbers<Real>::lanes) return load(from);
  Vec<Real> value = {};
  for (long lane = 0; lane < count; ++lane) value[lane] = from[lane];
  return value;
}

template <class Real>
inline void store(Real* to, Vec<Real> value, long count) {
  if (count >= Numbers<Real>::lanes) return store(to, value);
  for (long lane = 0; lane < count; ++lane) to[lane] = value[lane];
}

// `value` in the first `count` lanes, zero behind them, whatever stood there.
template <class Real>
inline Vec<Real> first_lanes(Vec<Real> value, long count) {
  if (count >= Numbers<Real>::lanes) return value;
  for (long lane = count; lane < Numbers<Real>::lanes; ++lane) value[lane] = 0;
  return value;
}

inline Vec<float> polynomial_of_exp(Vec<float> x) {
  Vec<float> sum = 1.9875691500e-4f * x + 1.3981999507e-3f;
  sum = sum * x + 8.3334519073e-3f;
  sum = sum * x + 4.1665795894e-2f;
  sum = sum * x + 1.6666665459e-1f;
  sum = sum * x + 5.0000001201e-1f;
  return sum * (x * x) + x + 1.0f;
}

inline Vec<double> polynomial_of_exp(Vec<double> x) {  // Taylor: |x| < 0.35, 0.35^14 / 14! < 1e-17
  Vec<double> sum = x / 13.0 + 1.0;
  for (int degree = 12; degree >= 1; --degree) sum = sum * (x / double(degree)) + 1.0;
  return sum;
}

// exp(x) = 2^n * exp(rest). The rounding constant leaves n in the low bits of `shifted` as exponents
// are stored; shifted to their place, they are 2^n. Multiplied and not added to the exponent of
// exp(rest), so that NaN of whatever bits stays NaN.
template <class Real>
inline Vec<Real> exponential(Vec<Real> x) {
  using N = Numbers<Real>;
  typedef typename N::Bits Bits;
  const Vec<Real> smallest = broadcast(N::smallest), largest = broadcast(N::largest);
  x = x < smallest ? smallest : x;
  x = x > largest ? largest : x;
  const Vec<Real> shifted = x * Real(1.44269504088896341) + N::round_to_integer;
  const Vec<Real> n = shifted - N::round_to_integer;
  const Vec<Real> rest = x - n * N::ln2_high - n * N::ln2_low;
  return polynomial_of_exp(rest) * (Vec<Real>)((Bits)shifted << N::mantissa);
}

template <class Real>
inline Vec<Real> reciprocal(Vec<Real> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4) {  // a division holds up the pipeline for 16 cycles there
    const Vec<float> guess = (Vec<float>)_mm512_maskz_rcp14_ps(0xffff, (__m512)x);
    return guess * (2.0f - x * guess);
  }
#endif
  return Real(1) / x;
}

template <class Real>
inline Vec<Real> sigmoid(Vec<Real> x) {
  return reciprocal<Real>(exponential<Real>(-x) + Real(1));
}

inline Vec<float> tanh_near_zero(Vec<float> x) {
  const Vec<float> square = x * x;
  Vec<float> sum = -5.70498872745e-3f * square + 2.06390887954e-2f;
  sum = sum * square - 5.37397155531e-2f;
  sum = sum * square + 1.33314422036e-1f;
  sum = sum * square - 3.33332819422e-1f;
  return sum * square * x + x;
}

inline Vec<double> tanh_near_zero(Vec<double> x) {
  const Vec<double> square = x * x;
  Vec<double> over = -9.64399179425052238628e-1 * square - 9.92877231001918586564e1;
  over = over * square - 1.61468768441708447952e3;
  Vec<double> under = square + 1.12811678491632931402e2;
  under = under * square + 2.23548839060100448583e3;
  under = under * square + 4.84406305325125486048e3;
  return x + x * square * (over / under);
}

// 1 - 2 / (exp(2x) + 1) would lose the small values of x, whose tanh is x itself.
template <class Real>
inline Vec<Real> hyperbolic_tangent(Vec<Real> x) {
  const Vec<Real> none = {};
  const Vec<Real> size = x < none ? -x : x;
  const Vec<Real> over = reciprocal<Real>(exponential<Real>(size + size) + Real(1));
  const Vec<Real> far = Real(1) - Real(2) * over;
  const Vec<Real> signed_far = x < none ? -far : far;
  return size < broadcast(Real(0.625)) ? tanh_near_zero(x) : signed_far;
}
