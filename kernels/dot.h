// Rows of float32, bfloat16 or int8 times a float32 vector, in registers as wide as there are.
#ifndef EMU_KERNELS_DOT_H_
#define EMU_KERNELS_DOT_H_

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace emu {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
// Weights are asked for so far ahead, into the second cache: the processor's own prefetchers stop
// at every page, and the conversion of int8 fills its window before it has asked for the next.
constexpr int kAheadBytes = 8192;

struct Bf16 {
  uint16_t bits;
};

inline float Scalar(float w) { return w; }
inline float Scalar(int8_t w) { return w; }
inline float Scalar(Bf16 w) {
  uint32_t wide = uint32_t{w.bits} << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// kLanes weights as float32. GCC 12 takes a vector conversion from 8 or 16 bits apart into
// scalar inserts (a tenth of the speed), hence the intrinsics.
typedef float F32 __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

inline F32 Load(const float* w) { return *reinterpret_cast<const F32*>(w); }
#if defined(__AVX512F__)
inline F32 Load(const Bf16* w) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
  return (F32)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
}
inline F32 Load(const int8_t* w) {
  const __m128i byte = _mm_loadu_si128(reinterpret_cast<const __m128i*>(w));
  return (F32)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(byte));
}
#elif defined(__AVX2__)
inline F32 Load(const Bf16* w) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(w));
  return (F32)_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16);
}
inline F32 Load(const int8_t* w) {
  const __m128i byte = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(w));
  return (F32)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(byte));
}
#else
template <typename W>
inline F32 Load(const W* w) {
  F32 value;
  for (int i = 0; i < kLanes; ++i) value[i] = Scalar(w[i]);
  return value;
}
#endif

// Of all lanes, pairwise.
inline float Sum(F32 v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#elif defined(__AVX__)
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)v),
                                 _mm256_extractf128_ps((__m256)v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehdup_ps(four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehl_ps(two, two)));
#else
  typedef float F4 __attribute__((vector_size(16)));
  float lane[kLanes];
  std::memcpy(lane, &v, sizeof v);
  const F4 four = F4{lane[0], lane[1], lane[2], lane[3]} + F4{lane[4], lane[5], lane[6], lane[7]};
  return (four[0] + four[1]) + (four[2] + four[3]);
#endif
}

// Sums that are kept apart, so that none need wait for the one before, and so many that a turn takes
// two cache lines of float32 and of bfloat16: with one line a turn bfloat16 streamed 3 % slower.
template <typename W>
constexpr int kSums = sizeof(W) == 4 ? 4 : 8;

// The lines of kSums × kLanes weights, kAheadBytes on.
template <typename W>
inline void Prefetch(const W* weights) {
  const char* ahead = reinterpret_cast<const char*>(weights) + kAheadBytes;
  for (size_t byte = 0; byte < kSums<W> * kLanes * sizeof(W); byte += 64)
    __builtin_prefetch(ahead + byte, 0, 2);
}

// One row times x. Rows are taken one by one, each from its beginning to its end: summing four at
// once saves loads of x, but its four streams halve what the prefetchers bring in from DRAM.
template <typename W>
inline float Dot(const W* row, const float* x, int64_t n) {
  F32 sums[kSums<W>] = {};
  int64_t i = 0;
  for (; i + kSums<W> * kLanes <= n; i += kSums<W> * kLanes) {
    Prefetch(row + i);
    for (int s = 0; s < kSums<W>; ++s)
      sums[s] += Load(row + i + s * kLanes) * Load(x + i + s * kLanes);
  }
  for (int half = kSums<W> / 2; half > 0; half /= 2)
    for (int s = 0; s < half; ++s) sums[s] += sums[s + half];
  float total = Sum(sums[0]);
  for (; i < n; ++i) total += Scalar(row[i]) * x[i];
  return total;
}

// Rows begin … end - 1 of W [rows, n] times x, and each times its scale where there is one.
template <typename W>
void Multiply(const void* weights, const float* scale, const float* x, int64_t n, int64_t begin,
              int64_t end, float* y) {
  const W* w = static_cast<const W*>(weights);
  for (int64_t row = begin; row < end; ++row) {
    const float product = Dot(w + row * n, x, n);
    y[row] = scale == nullptr ? product : product * scale[row];
  }
}

// exp, lane by lane, for arguments ≤ 0: 2^k × e^r with |r| ≤ ln 2 / 2, and e^r by its Taylor
// series to r^7 (error below 1e-7 relative). Below -87 it stays at e^-87, 1.6e-38.
inline F32 Exp(F32 x) {
  typedef int32_t S32 __attribute__((vector_size(kLanes * 4)));
  const F32 low = x - x - 87.0f;
  x = (F32)(((S32)x & (x > low)) | ((S32)low & ~(x > low)));
  const F32 shifted = x * 1.44269504f + 12582912.0f;  // 1.5 × 2^23: the sum's last bits hold k
  const F32 k = shifted - 12582912.0f;
  const F32 r = (x - k * 0.693359375f) + k * 2.12194440e-4f;  // ln 2 in two parts
  F32 e = r * (1.0f / 5040) + 1.0f / 720;
  e = e * r + 1.0f / 120;
  e = e * r + 1.0f / 24;
  e = e * r + 1.0f / 6;
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  return (F32)((S32)e + ((S32)shifted << 23));  // k into the exponent; the rest shifts out
}

inline float Largest(const float* x, int64_t n) {
  float most = x[0];
  for (int64_t i = 1; i < n; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

// x ← exp(scale × (x − most)) over n values, none above `most`; returns their sum. Up to kLanes
// values behind the n-th are overwritten.
inline float ExpShifted(float* x, int64_t n, float most, float scale) {
  for (int64_t i = n; i < n + kLanes; ++i) x[i] = most;
  for (int64_t i = 0; i < n; i += kLanes)
    *reinterpret_cast<F32*>(x + i) = Exp((Load(x + i) - most) * scale);
  F32 sums = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sums += Load(x + i);
  float total = Sum(sums);
  for (; i < n; ++i) total += x[i];
  return total;
}

}  // namespace emu

#endif  // EMU_KERNELS_DOT_H_
