// Attention of one new token of one sequence over the tokens that the cache holds.
//
// A batch-1 product too: it reads each cached key and value once per query head, and only as many
// as there are, where a program of fixed shapes has to read (and mask) every slot. The new key and
// value are written in place: the results alias the caches that came in. Query and key are turned
// by the angles of their position (RoPE) on the way, since XLA:CPU would work out the cosines again
// for every head of every layer.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "dot.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

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

template <typename W>
void AttendHead(const Shape& s, int64_t head, const float* q, const W* keys, const W* values,
                float* mixed) {
  const int64_t slots = head / s.group * s.length * s.width;
  const float scale = 1.0f / std::sqrt(static_cast<float>(s.width));
  std::vector<float> shares(static_cast<size_t>(s.held) + emu::kLanes);
  float* const out = mixed + head * s.width;
  emu::Multiply<W>(keys + slots, nullptr, q + head * s.width, s.width, 0, s.held, shares.data());
  const float total = emu::ExpShifted(shares.data(), s.held, scale);
  emu::WeightedSum(shares.data(), values + slots, s.held, s.width, out);
  for (int64_t c = 0; c < s.width; ++c) out[c] /= total;
}

// Heads that share a key and value head may go to different threads: they share the cache too.
template <typename W>
void AttendAll(const Shape& s, const float* q, const float* new_key,
               const float* new_value, void* keys, void* values, float* mixed) {
  W* const k = static_cast<W*>(keys);
  W* const v = static_cast<W*>(values);
  Append(s, new_key, k);
  Append(s, new_value, v);
  emu::ForBlocks(s.kv_heads * s.group,
                 [=](int64_t head) { AttendHead<W>(s, head, q, k, v, mixed); });
}

ffi::Error Attend(ffi::Buffer<ffi::F32> q, ffi::Buffer<ffi::F32> new_key,
                  ffi::Buffer<ffi::F32> new_value, ffi::AnyBuffer keys, ffi::AnyBuffer values,
                  ffi::Buffer<ffi::S32> position, ffi::Buffer<ffi::F32> angles,
                  ffi::Result<ffi::Buffer<ffi::F32>> mixed, ffi::Result<ffi::AnyBuffer> keys_out,
                  ffi::Result<ffi::AnyBuffer> values_out) {
  const auto dims = keys.dimensions();  // [1, kv_heads, length, width]
  if (dims.size() != 4 || dims[0] != 1) return ffi::Error::InvalidArgument("keys: not [1, …]");
  Shape s{dims[1], 0, dims[2], dims[3], int64_t{position.typed_data()[0]} + 1};
  s.group = static_cast<int64_t>(q.element_count()) / (s.kv_heads * s.width);
  // A fixed-shape update clamps a position past the end; so does this.
  if (s.held < 1) s.held = 1;
  if (s.held > s.length) s.held = s.length;
  void* const k = keys_out->untyped_data();
  void* const v = values_out->untyped_data();
  if (k != keys.untyped_data()) std::memcpy(k, keys.untyped_data(), keys.size_bytes());
  if (v != values.untyped_data()) std::memcpy(v, values.untyped_data(), values.size_bytes());

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

}  // namespace

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
