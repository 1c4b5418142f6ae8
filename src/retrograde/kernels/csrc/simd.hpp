// Vectors of the width this file is compiled for, and the three functions a recurrent
// layer needs of them: exp - 1, tanh and the logistic function.
//
// The compiler's own vector type serves every processor; the few intrinsics below are for
// what it does not find itself. Everything is inline and inside a namespace of the
// instruction set, so that no function built for one processor is linked for another.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef RETROGRADE_SET
#error "compile with -DRETROGRADE_SET=<name of the instruction set>"
#endif
#define RG_INLINE inline __attribute__((always_inline))

namespace retrograde {
namespace RETROGRADE_SET {

using Index = std::int64_t;

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T> struct VectorOf;
template <> struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef std::int32_t bits __attribute__((vector_size(kVectorBytes)));
};
template <> struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef std::int64_t bits __attribute__((vector_size(kVectorBytes)));
};
template <class T> using Vec = typename VectorOf<T>::type;
template <class T> using Bits = typename VectorOf<T>::bits;
template <class T> constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));

template <class T> RG_INLINE Vec<T> splat(T x) { return x - Vec<T>{}; }
template <class T> RG_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T> RG_INLINE void store(T* p, Vec<T> v) { std::memcpy(p, &v, sizeof v); }

// The first n lanes only; the others read as zero and are not written.
template <class T> RG_INLINE Vec<T> load_first(const T* p, int n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
  else return (Vec<T>)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), p);
#else
  Vec<T> v{};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
#endif
}
template <class T> RG_INLINE void store_first(T* p, Vec<T> v, int n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)v);
  else _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1), (__m512d)v);
#else
  for (int i = 0; i < n; ++i) p[i] = v[i];
#endif
}

// A vector that is whole (Full) or has only n valid lanes.
template <bool Full, class T> RG_INLINE Vec<T> read(const T* p, int n) {
  if constexpr (Full) return load(p);
  else return load_first(p, n);
}
template <bool Full, class T> RG_INLINE void write(T* p, Vec<T> v, int n) {
  if constexpr (Full) store(p, v);
  else store_first(p, v, n);
}

// NaN stays: comparisons with it are false, and of a NaN and a number the processor's minimum is its second operand.
template <class T> RG_INLINE Vec<T> clamp(Vec<T> x, T lo, T hi) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm512_max_ps((__m512)splat(lo), _mm512_min_ps((__m512)splat(hi), (__m512)x));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm256_max_ps((__m256)splat(lo), _mm256_min_ps((__m256)splat(hi), (__m256)x));
#endif
  x = x > hi ? splat(hi) : x;
  return x < lo ? splat(lo) : x;
}

// ---- functions of N vectors ------------------------------------------------------------------------------
//
// Each operation is done for all N before the next: what is done to one vector waits for what was done to it before,
// and a processor that looks a few hundred instructions ahead finds little else to do unless it is close by.

template <int N, class F> RG_INLINE void for_each(F f) {
#pragma GCC unroll 16
  for (int j = 0; j < N; ++j) f(j);
}

// The processor's estimate of 1 / x, where it has one.
#if defined(__AVX512F__)
constexpr bool kEstimates = true;
RG_INLINE Vec<float> reciprocal(Vec<float> x) { return (Vec<float>)_mm512_rcp14_ps((__m512)x); }
#elif defined(__AVX2__)
constexpr bool kEstimates = true;
RG_INLINE Vec<float> reciprocal(Vec<float> x) { return (Vec<float>)_mm256_rcp_ps((__m256)x); }
#else
constexpr bool kEstimates = false;
RG_INLINE Vec<float> reciprocal(Vec<float> x) { return 1.0f / x; }
#endif

// num / den for den in [1, 2^128): in float the processor's estimate corrected by what it leaves over, which is 1 where
// num = den, since a row of gates needs five quotients and the divider would be half of its time.
template <class T, int N> RG_INLINE void divide(Vec<T> (&to)[N], const Vec<T> (&num)[N], const Vec<T> (&den)[N]) {
  if constexpr (sizeof(T) == 4 && kEstimates) {
    Vec<T> y[N], q[N];
    for_each<N>([&](int j) { y[j] = reciprocal(den[j]); });
    for_each<N>([&](int j) { q[j] = num[j] * y[j]; });
    for_each<N>([&](int j) { to[j] = q[j] + y[j] * (num[j] - den[j] * q[j]); });
  } else {
    for_each<N>([&](int j) { to[j] = num[j] / den[j]; });
  }
}

// exp(x) = 2^n (1 + p), n = round(x / ln 2), p = expm1(x - n ln 2); |x| <= 88.3 (float), 709 (double).
template <class T> struct ExponentialOf;
template <> struct ExponentialOf<float> {
  static constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer kept in the low bits
  static constexpr float log2e = 1.44269504089f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  // minimax fit of (expm1(r) - r) / r^2 on |r| <= ln(2)/2: 1.3e-8 of expm1(r)
  static constexpr float q[] = {0.0013882521307095885f, 0.008366518653929234f, 0.04166720062494278f,
                                0.1666654348373413f, 0.4999999701976776f};
  static constexpr int mantissa = 23;
  static constexpr std::int32_t one = 0x3f800000;
};
template <> struct ExponentialOf<double> {
  static constexpr double magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double log2e = 1.4426950408889634074, ln2_high = 6.93145751953125e-1;
  static constexpr double ln2_low = 1.42860682030941723212e-6;
  // Taylor: the first term left out is r^14 / 14! < 5e-18
  static constexpr double q[] = {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0,
                                 1.0 / 362880.0,     1.0 / 40320.0,     1.0 / 5040.0,     1.0 / 720.0,
                                 1.0 / 120.0,        1.0 / 24.0,        1.0 / 6.0,        0.5};
  static constexpr int mantissa = 52;
  static constexpr std::int64_t one = 0x3ff0000000000000LL;
};
template <class T, int N> RG_INLINE void exponentials(Vec<T> (&scale)[N], Vec<T> (&p)[N], const Vec<T> (&x)[N]) {
  using Of = ExponentialOf<T>;
  Vec<T> t[N], n[N], r[N], q[N];
  for_each<N>([&](int j) { t[j] = x[j] * Of::log2e + Of::magic; });
  for_each<N>([&](int j) { n[j] = t[j] - Of::magic; });
  for_each<N>([&](int j) { r[j] = x[j] - n[j] * Of::ln2_high; });
  for_each<N>([&](int j) { r[j] = r[j] - n[j] * Of::ln2_low; });  // ln 2 in two parts (Cody and Waite)
  constexpr int terms = sizeof(Of::q) / sizeof(T);
  for_each<N>([&](int j) { q[j] = splat(Of::q[0]); });
  for_each<terms - 1>([&](int i) { for_each<N>([&](int j) { q[j] = q[j] * r[j] + Of::q[i + 1]; }); });
  for_each<N>([&](int j) { scale[j] = (Vec<T>)(((Bits<T>)t[j] << Of::mantissa) + Of::one); });
  for_each<N>([&](int j) { t[j] = r[j] * r[j]; });
  for_each<N>([&](int j) { p[j] = r[j] + t[j] * q[j]; });
}

// x[j] = tanh(x[j]) where is_tanh(j), and 1 / (1 + exp(-x[j])) elsewhere.
// tanh x = expm1(2x) / (expm1(2x) + 2): relative accuracy for small x too, where expm1(2x) -> 2x.
template <class T, int N, class IsTanh> RG_INLINE void activate(Vec<T> (&x)[N], IsTanh is_tanh) {
  constexpr T tanhs = sizeof(T) == 4 ? T(20) : T(40);        // beyond it tanh rounds to ±1
  constexpr T sigmoids = sizeof(T) == 4 ? T(88.3) : T(709);  // beyond it sigma is subnormal, which is zero here
  Vec<T> scale[N], p[N], num[N], den[N];
  for_each<N>(
      [&](int j) { x[j] = is_tanh(j) ? clamp<T>(x[j] + x[j], -tanhs, tanhs) : clamp<T>(-x[j], -sigmoids, sigmoids); });
  exponentials<T>(scale, p, x);
  for_each<N>([&](int j) { num[j] = is_tanh(j) ? scale[j] * p[j] + (scale[j] - T(1)) : splat(T(1)); });
  for_each<N>([&](int j) { den[j] = is_tanh(j) ? num[j] + T(2) : (scale[j] * p[j] + scale[j]) + T(1); });
  divide<T>(x, num, den);
}
template <class T, int N> RG_INLINE void tanh(Vec<T> (&x)[N]) {
  activate<T>(x, [](int) { return true; });
}
template <class T, int N> RG_INLINE void sigmoid(Vec<T> (&x)[N]) {
  activate<T>(x, [](int) { return false; });
}

// Subnormal numbers cost a hundred cycles each: inside the kernels they count as zero.
class FlushSubnormals {
 public:
#if defined(__x86_64__)
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
  ~FlushSubnormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FlushSubnormals() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
    __asm__ volatile("msr fpcr, %0" ::"r"(saved_ | (std::uint64_t{1} << 24)));
  }
  ~FlushSubnormals() { __asm__ volatile("msr fpcr, %0" ::"r"(saved_)); }

 private:
  std::uint64_t saved_;
#endif
};

}  // namespace RETROGRADE_SET
}  // namespace retrograde
