// A plain streaming read: the limit that any product of as many bytes is measured against.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>

#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr int64_t kBlockBytes = 64 << 10;
constexpr int kLineBytes = 64;

typedef uint32_t Words __attribute__((vector_size(kLineBytes), aligned(4), may_alias));

// XOR of the 32-bit words of `bytes` bytes, the odd bytes at the end padded with noughts.
uint32_t Fold(const char* data, int64_t bytes) {
  Words a = {}, b = {}, c = {}, d = {};
  int64_t i = 0;
  for (; i + 4 * kLineBytes <= bytes; i += 4 * kLineBytes) {
    const Words* w = reinterpret_cast<const Words*>(data + i);
    a ^= w[0];
    b ^= w[1];
    c ^= w[2];
    d ^= w[3];
  }
  a ^= b ^ c ^ d;
  uint32_t folded = 0;
  for (size_t lane = 0; lane < sizeof a / sizeof folded; ++lane) folded ^= a[lane];
  for (; i < bytes; i += 4) {
    uint32_t word = 0;
    std::memcpy(&word, data + i, static_cast<size_t>(std::min<int64_t>(4, bytes - i)));
    folded ^= word;
  }
  return folded;
}

ffi::Error Read(ffi::AnyBuffer buffer,
                ffi::Result<ffi::Buffer<ffi::U32>> folded) {
  const char* data = static_cast<const char*>(buffer.untyped_data());
  const int64_t bytes = static_cast<int64_t>(buffer.size_bytes());
  auto total = std::make_shared<std::atomic<uint32_t>>(0);
  emu::ForBlocks((bytes + kBlockBytes - 1) / kBlockBytes, [=](int64_t block) {
    const int64_t begin = block * kBlockBytes;
    total->fetch_xor(Fold(data + begin, std::min(kBlockBytes, bytes - begin)));
  });
  folded->typed_data()[0] = total->load();
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(emu_read, Read,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::Buffer<ffi::U32>>());
