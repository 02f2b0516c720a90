// Attention of one new token of one sequence over the tokens that the cache holds.
//
// A batch-1 product too: it reads each cached key and value once, for all of the query heads that
// share it, and only as many as there are, where a program of fixed shapes has to read (and mask)
// every slot. The new key and
// value are written in place: the results alias the caches that came in. Query and key are turned
// by the angles of their position (RoPE) on the way, since XLA:CPU would work out the cosines again
// for every head of every layer.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "dot.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr int64_t kSpan = 64;  // tokens that a thread takes at once

struct Shape {
  int64_t kv_heads, group, length, width, held;  // held: tokens in the cache, the new one included
};

void Store(float* to, float value) { *to = value; }
void Store(emu::Bf16* to, float value) {  // round to nearest even, as XLA does
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  to->bits = static_cast<uint16_t>(nan ? (bits >> 16 | 0x40)
                                       : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Heads [heads, width] turned by `angles` [2, width / 2], cosines first, in the half-split order.
std::vector<float> Rotated(const float* x, const float* angles, int64_t heads, int64_t width) {
  const int64_t half = width / 2;
  std::vector<float> turned(static_cast<size_t>(heads * width));
  for (int64_t h = 0; h < heads; ++h) {
    const float *const first = x + h * width, *const second = first + half;
    float* const to = turned.data() + h * width;
    for (int64_t c = 0; c < half; ++c) {
      to[c] = first[c] * angles[c] - second[c] * angles[half + c];
      to[half + c] = second[c] * angles[c] + first[c] * angles[half + c];
    }
  }
  return turned;
}

template <typename W>
void Append(const Shape& s, const float* token, W* slots) {
  for (int64_t h = 0; h < s.kv_heads; ++h)
    for (int64_t c = 0; c < s.width; ++c)
      Store(slots + (h * s.length + s.held - 1) * s.width + c, token[h * s.width + c]);
}

// What a stretch of tokens comes to for one query head, to be put together with the other stretches.
struct Part {
  float most;   // of the scores
  float total;  // Σ exp(scale × (score − most))
};

// scores[g][t] ← q[g] · keys[t]. A key is loaded, and converted, once for all of the query heads,
// and the value that goes with it is asked for.
template <typename W, int kHeads>
void Scores(const float* q, const W* keys, const W* values, int64_t tokens, int64_t width,
            float (*scores)[kSpan + emu::kLanes]) {
  for (int64_t t = 0; t < tokens; ++t, keys += width, values += width) {
    for (int64_t byte = 0; byte < width * int64_t{sizeof(W)}; byte += 64)
      __builtin_prefetch(reinterpret_cast<const char*>(values) + byte);
    emu::F32 sums[kHeads] = {};
    int64_t c = 0;
    for (; c + emu::kLanes <= width; c += emu::kLanes) {
      const emu::F32 key = emu::Load(keys + c);
      for (int g = 0; g < kHeads; ++g) sums[g] += key * emu::Load(q + g * width + c);
    }
    for (int g = 0; g < kHeads; ++g) {
      scores[g][t] = emu::Sum(sums[g]);
      for (int64_t i = c; i < width; ++i) scores[g][t] += emu::Scalar(keys[i]) * q[g * width + i];
    }
  }
}

// mixed[g] ← Σ shares[g][t] × values[t], so many columns at once that their sums stay in registers.
template <typename W, int kHeads>
void Mix(const float (*shares)[kSpan + emu::kLanes], const W* values, int64_t tokens, int64_t width,
         float* mixed, int64_t stride) {
  constexpr int kColumns = 2;
  int64_t c = 0;
  for (; c + kColumns * emu::kLanes <= width; c += kColumns * emu::kLanes) {
    emu::F32 sums[kHeads][kColumns] = {};
    for (int64_t t = 0; t < tokens; ++t)
      for (int i = 0; i < kColumns; ++i) {
        const emu::F32 value = emu::Load(values + t * width + c + i * emu::kLanes);
        for (int g = 0; g < kHeads; ++g) sums[g][i] += value * shares[g][t];
      }
    for (int g = 0; g < kHeads; ++g) std::memcpy(mixed + g * stride + c, sums[g], sizeof sums[g]);
  }
  for (; c < width; ++c)
    for (int g = 0; g < kHeads; ++g) {
      float sum = 0;
      for (int64_t t = 0; t < tokens; ++t) sum += emu::Scalar(values[t * width + c]) * shares[g][t];
      mixed[g * stride + c] = sum;
    }
}

// kHeads query heads over one stretch: their parts, and what they mix of its values.
template <typename W, int kHeads>
void AttendSpan(const float* q, const W* keys, const W* values, int64_t tokens, int64_t width,
                int64_t spans, Part* parts, float* mixed) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  float scores[kHeads][kSpan + emu::kLanes];
  Scores<W, kHeads>(q, keys, values, tokens, width, scores);
  for (int g = 0; g < kHeads; ++g) {
    Part& part = parts[g * spans];
    part.most = emu::Largest(scores[g], tokens);
    part.total = emu::ExpShifted(scores[g], tokens, part.most, scale);
  }
  Mix<W, kHeads>(scores, values, tokens, width, mixed, spans * width);
}

// The query heads that share one head of keys and values, a few at a time.
template <typename W>
void AttendGroup(int64_t group, const float* q, const W* keys, const W* values, int64_t tokens,
                 int64_t width, int64_t spans, Part* parts, float* mixed) {
  for (int64_t g = 0; g < group; g += 4) {
    const auto attend = group - g == 1   ? AttendSpan<W, 1>
                        : group - g == 2 ? AttendSpan<W, 2>
                        : group - g == 3 ? AttendSpan<W, 3>
                                         : AttendSpan<W, 4>;
    attend(q + g * width, keys, values, tokens, width, spans, parts + g * spans,
           mixed + g * spans * width);
  }
}

// Softmax over all stretches from what each comes to, in their order.
void Combine(const Shape& s, int64_t spans, const Part* parts, const float* mixed, float* out) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(s.width));
  for (int64_t head = 0; head < s.kv_heads * s.group; ++head, parts += spans, out += s.width) {
    float most = parts[0].most, total = 0;
    for (int64_t i = 1; i < spans; ++i) most = std::max(most, parts[i].most);
    std::fill_n(out, s.width, 0.0f);
    for (int64_t i = 0; i < spans; ++i, mixed += s.width) {
      const float share = spans == 1 ? 1.0f : std::exp((parts[i].most - most) * scale);
      total += share * parts[i].total;
      for (int64_t c = 0; c < s.width; ++c) out[c] += share * mixed[c];
    }
    for (int64_t c = 0; c < s.width; ++c) out[c] /= total;
  }
}

// Stretches are always as long, whatever the number of threads, so the result is always the same.
template <typename W>
void AttendAll(const Shape& s, const float* q, const float* new_key,
               const float* new_value, void* keys, void* values, float* out) {
  W* const k = static_cast<W*>(keys);
  W* const v = static_cast<W*>(values);
  Append(s, new_key, k);
  Append(s, new_value, v);
  const int64_t spans = (s.held + kSpan - 1) / kSpan, heads = s.kv_heads * s.group;
  std::vector<Part> all_parts(static_cast<size_t>(heads * spans));
  std::vector<float> all_mixed(static_cast<size_t>(heads * spans * s.width));
  Part* const parts = all_parts.data();
  float* const mixed = all_mixed.data();
  emu::ForBlocks(s.kv_heads * spans, [=](int64_t block) {
    const int64_t kv = block / spans, span = block % spans, first = span * kSpan;
    const int64_t slots = (kv * s.length + first) * s.width, head = kv * s.group;
    AttendGroup<W>(s.group, q + head * s.width, k + slots, v + slots,
                   std::min(kSpan, s.held - first), s.width, spans, parts + head * spans + span,
                   mixed + (head * spans + span) * s.width);
  });
  Combine(s, spans, parts, mixed, out);
}

ffi::Error AttendIn(ffi::Buffer<ffi::F32> q, ffi::Buffer<ffi::F32> new_key,
                    ffi::Buffer<ffi::F32> new_value, ffi::AnyBuffer keys, ffi::AnyBuffer values,
                    ffi::Buffer<ffi::S32> position, ffi::Buffer<ffi::F32> angles,
                    const int32_t* layer, ffi::Result<ffi::Buffer<ffi::F32>> mixed,
                    ffi::Result<ffi::AnyBuffer> keys_out, ffi::Result<ffi::AnyBuffer> values_out) {
  auto dims = keys.dimensions();  // [1, kv_heads, length, width], or layers of such
  int64_t before = 0;  // bytes of the layers before this one
  if (layer != nullptr && dims.size() == 5) {
    const int64_t layers = std::max<int64_t>(dims[0], 1);
    before = static_cast<int64_t>(keys.size_bytes()) / layers *
             std::clamp<int64_t>(*layer, 0, layers - 1);
    dims = dims.last(4);
  }
  if (dims.size() != 4 || dims[0] != 1) return ffi::Error::InvalidArgument("keys: not [1, …]");
  if (values.element_type() != keys.element_type() || values.element_count() != keys.element_count())
    return ffi::Error::InvalidArgument("values: not as the keys");
  Shape s{dims[1], 0, dims[2], dims[3], int64_t{position.typed_data()[0]} + 1};
  s.group = static_cast<int64_t>(q.element_count()) / (s.kv_heads * s.width);
  // A fixed-shape update clamps a position past the end; so does this.
  if (s.held < 1) s.held = 1;
  if (s.held > s.length) s.held = s.length;
  char* k = static_cast<char*>(keys_out->untyped_data());
  char* v = static_cast<char*>(values_out->untyped_data());
  if (k != keys.untyped_data()) std::memcpy(k, keys.untyped_data(), keys.size_bytes());
  if (v != values.untyped_data()) std::memcpy(v, values.untyped_data(), values.size_bytes());
  k += before;
  v += before;

  if (static_cast<int64_t>(angles.element_count()) != s.width)
    return ffi::Error::InvalidArgument("angles: not [2, head_width / 2]");
  const float* const turns = angles.typed_data();
  const auto query = Rotated(q.typed_data(), turns, s.kv_heads * s.group, s.width);
  const auto key = Rotated(new_key.typed_data(), turns, s.kv_heads, s.width);
  const float* const value = new_value.typed_data();
  float* const out = mixed->typed_data();
  switch (keys.element_type()) {
    case ffi::DataType::F32:
      AttendAll<float>(s, query.data(), key.data(), value, k, v, out);
      return ffi::Error::Success();
    case ffi::DataType::BF16:
      AttendAll<emu::Bf16>(s, query.data(), key.data(), value, k, v, out);
      return ffi::Error::Success();
    default:
      return ffi::Error::InvalidArgument("keys: not float32 or bfloat16");
  }
}

ffi::Error Attend(ffi::Buffer<ffi::F32> q, ffi::Buffer<ffi::F32> key, ffi::Buffer<ffi::F32> value,
                  ffi::AnyBuffer keys, ffi::AnyBuffer values, ffi::Buffer<ffi::S32> position,
                  ffi::Buffer<ffi::F32> angles, ffi::Result<ffi::Buffer<ffi::F32>> mixed,
                  ffi::Result<ffi::AnyBuffer> keys_out, ffi::Result<ffi::AnyBuffer> values_out) {
  return AttendIn(q, key, value, keys, values, position, angles, nullptr, mixed, keys_out, values_out);
}

ffi::Error AttendInStack(ffi::Buffer<ffi::F32> q, ffi::Buffer<ffi::F32> key,
                         ffi::Buffer<ffi::F32> value, ffi::AnyBuffer keys, ffi::AnyBuffer values,
                         ffi::Buffer<ffi::S32> position, ffi::Buffer<ffi::F32> angles,
                         ffi::Buffer<ffi::S32> layer, ffi::Result<ffi::Buffer<ffi::F32>> mixed,
                         ffi::Result<ffi::AnyBuffer> keys_out,
                         ffi::Result<ffi::AnyBuffer> values_out) {
  return AttendIn(q, key, value, keys, values, position, angles, layer.typed_data(), mixed, keys_out,
                  values_out);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(emu_attend_in_stack, AttendInStack,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(emu_attend, Attend,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());
