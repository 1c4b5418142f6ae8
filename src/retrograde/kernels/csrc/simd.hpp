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

// Comparisons are written so that NaN, which compares false, stays.
template <class T> RG_INLINE Vec<T> clamp(Vec<T> x, T lo, T hi) {
  x = x > hi ? splat(hi) : x;
  return x < lo ? splat(lo) : x;
}

// num / den for den in [1, 2^128): in float the processor's estimate corrected by what it leaves over, which is 1 where
// num = den, since a row of gates needs five quotients and the divider would be half of its time.
template <class T> RG_INLINE Vec<T> quotient(Vec<T> num, Vec<T> den) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    Vec<T> y = (Vec<T>)_mm512_rcp14_ps((__m512)den);
    const Vec<T> q = num * y;
    return q + y * (num - den * q);
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {
    Vec<T> y = (Vec<T>)_mm256_rcp_ps((__m256)den);
    const Vec<T> q = num * y;
    return q + y * (num - den * q);
  }
#endif
  return num / den;
}

// exp(x) = 2^n (1 + p), n = round(x / ln 2), p = expm1(x - n ln 2); |x| <= 88.3 (float), 709 (double).
template <class T> struct Exponential {
  Vec<T> scale, p;
};
template <class T> RG_INLINE Exponential<T> exponential(Vec<T> x) {
  if constexpr (sizeof(T) == 4) {
    constexpr T magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer kept in the low bits
    Vec<T> t = x * 1.44269504089f + magic;
    Vec<T> n = t - magic;
    Vec<T> r = x - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts (Cody and Waite)
    // minimax fit of (expm1(r) - r) / r^2 on |r| <= ln(2)/2: 1.3e-8 of expm1(r)
    Vec<T> q = r * 0.0013882521307095885f + 0.008366518653929234f;
    q = q * r + 0.04166720062494278f;
    q = q * r + 0.1666654348373413f;
    q = q * r + 0.4999999701976776f;
    Bits<T> e = ((Bits<T>)t << 23) + 0x3f800000;
    return {(Vec<T>)e, r + r * r * q};
  } else {
    constexpr T magic = 6755399441055744.0;  // 1.5 * 2^52
    Vec<T> t = x * 1.4426950408889634074 + magic;
    Vec<T> n = t - magic;
    Vec<T> r = x - n * 6.93145751953125e-1 - n * 1.42860682030941723212e-6;
    // Taylor: the first term left out is r^14 / 14! < 5e-18
    Vec<T> q = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
    q = q * r + 1.0 / 39916800.0;
    q = q * r + 1.0 / 3628800.0;
    q = q * r + 1.0 / 362880.0;
    q = q * r + 1.0 / 40320.0;
    q = q * r + 1.0 / 5040.0;
    q = q * r + 1.0 / 720.0;
    q = q * r + 1.0 / 120.0;
    q = q * r + 1.0 / 24.0;
    q = q * r + 1.0 / 6.0;
    q = q * r + 0.5;
    Bits<T> e = ((Bits<T>)t << 52) + 0x3ff0000000000000LL;
    return {(Vec<T>)e, r + r * r * q};
  }
}

// tanh x = expm1(2x) / (expm1(2x) + 2): relative accuracy for small x too, where expm1(2x) -> 2x.
template <class T> RG_INLINE Vec<T> tanh(Vec<T> x) {
  constexpr T limit = sizeof(T) == 4 ? T(20) : T(40);  // beyond it tanh rounds to ±1
  Exponential<T> e = exponential<T>(clamp<T>(x + x, -limit, limit));
  Vec<T> m = e.scale * e.p + (e.scale - T(1));
  return quotient<T>(m, m + T(2));
}

// sigma(x) = 1 / (1 + exp(-x))
template <class T> RG_INLINE Vec<T> sigmoid(Vec<T> x) {
  constexpr T limit = sizeof(T) == 4 ? T(88.3) : T(709);  // beyond it sigma is subnormal, which is zero here
  Exponential<T> e = exponential<T>(clamp<T>(-x, -limit, limit));
  return quotient<T>(splat(T(1)), (e.scale * e.p + e.scale) + T(1));
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
