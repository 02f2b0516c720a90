// Rows scaled to unit root mean square, and then by a learnt factor, in one call: XLA:CPU makes four
// loops of it, with a start each, and a decode step of one token has two in every layer.

#include <cmath>
#include <cstdint>

#include "dot.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

ffi::Error RmsNorm(ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> scale, float epsilon,
                   ffi::Result<ffi::Buffer<ffi::F32>> y) {
  const int64_t n = static_cast<int64_t>(scale.element_count());
  const int64_t all = static_cast<int64_t>(x.element_count());
  if (n == 0 || all % n != 0) return ffi::Error::InvalidArgument("x: not rows as long as the scale");
  const float* from = x.typed_data();
  const float* const factors = scale.typed_data();
  float* to = y->typed_data();
  for (int64_t row = 0; row < all / n; ++row, from += n, to += n) {
    const float mean = emu::Dot(from, from, n) / static_cast<float>(n);
    const float unit = 1.0f / std::sqrt(mean + epsilon);
    for (int64_t i = 0; i < n; ++i) to[i] = from[i] * unit * factors[i];
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(emu_rms_norm, RmsNorm,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Attr<float>("epsilon")
                                  .Ret<ffi::Buffer<ffi::F32>>());
