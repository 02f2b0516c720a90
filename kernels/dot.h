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
constexpr int kRows = 4;  // rows summed together: x is loaded once for four

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

// Pairwise, so that the four rows' sums overlap in the pipeline.
inline float Sum(F32 v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  typedef float F4 __attribute__((vector_size(16)));
  float lane[kLanes];
  std::memcpy(lane, &v, sizeof v);
  const F4 four = F4{lane[0], lane[1], lane[2], lane[3]} + F4{lane[4], lane[5], lane[6], lane[7]};
  return (four[0] + four[1]) + (four[2] + four[3]);
#endif
}

// `Rows` rows of w, each `n` long, times x.
template <int Rows, typename W>
inline void Dot(const W* w, const float* x, int64_t n, float* y) {
  F32 even[Rows] = {}, odd[Rows] = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const F32 x0 = Load(x + i), x1 = Load(x + i + kLanes);
    for (int r = 0; r < Rows; ++r) {
      even[r] += Load(w + r * n + i) * x0;
      odd[r] += Load(w + r * n + i + kLanes) * x1;
    }
  }
  for (int r = 0; r < Rows; ++r) {
    float total = Sum(even[r] + odd[r]);
    for (int64_t j = i; j < n; ++j) total += Scalar(w[r * n + j]) * x[j];
    y[r] = total;
  }
}

template <typename W>
void Multiply(const void* weights, const float* scale, const float* x, int64_t n, int64_t begin,
              int64_t end, float* y) {
  const W* w = static_cast<const W*>(weights);
  int64_t row = begin;
  for (; row + kRows <= end; row += kRows) Dot<kRows>(w + row * n, x, n, y + row);
  for (; row < end; ++row) Dot<1>(w + row * n, x, n, y + row);
  if (scale != nullptr)
    for (row = begin; row < end; ++row) y[row] *= scale[row];
}

// out += share × row, `n` wide.
template <typename W>
inline void Add(float share, const W* row, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    *reinterpret_cast<F32*>(out + i) = Load(out + i) + Load(row + i) * share;
  for (; i < n; ++i) out[i] += Scalar(row[i]) * share;
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

// x ← exp(scale × (x − max x)) over n values, whose sum is returned. Up to kLanes values behind
// the n-th are overwritten.
inline float ExpShifted(float* x, int64_t n, float scale) {
  float most = x[0];
  for (int64_t i = 1; i < n; ++i) most = x[i] > most ? x[i] : most;
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
