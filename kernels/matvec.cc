// Batch-1 products y_i = W_i x, for any number of matrices that share one x, in one call.
//
// At batch 1 a decode step is a stream of weights: each is read once and used once, so the only
// thing that counts is to keep every core's loads in flight. XLA:CPU converts bfloat16 and int8
// weights to float32 in memory before it multiplies them; here they are converted in registers.
// Each row is summed by one thread in one order, so the result does not depend on how many
// threads there are.

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "ahead.h"
#include "dot.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr int64_t kBlockWeights = 16 << 10;  // a microsecond or so: how long threads may differ
constexpr int64_t kMostAhead = 256 << 10;  // bytes: half of a small second-level cache

struct Matrix {
  ffi::DataType dtype;
  const void* weights;
  const float* scale;  // one per row; null where the weights carry no scale
  float* y;
  int64_t rows;
  int64_t block_rows;
  int64_t first_block;
};

bool Takes(ffi::DataType dtype) {
  return dtype == ffi::DataType::F32 || dtype == ffi::DataType::BF16 || dtype == ffi::DataType::S8;
}

void MultiplyRows(const Matrix& a, const float* x, int64_t n, int64_t begin, int64_t end) {
  switch (a.dtype) {
    case ffi::DataType::F32:
      return emu::Multiply<float>(a.weights, a.scale, x, n, begin, end, a.y);
    case ffi::DataType::BF16:
      return emu::Multiply<emu::Bf16>(a.weights, a.scale, x, n, begin, end, a.y);
    default:
      return emu::Multiply<int8_t>(a.weights, a.scale, x, n, begin, end, a.y);
  }
}

int64_t WidthOf(ffi::DataType dtype) {
  return dtype == ffi::DataType::F32 ? 4 : dtype == ffi::DataType::BF16 ? 2 : 1;
}

const Matrix& MatrixOf(const std::vector<Matrix>& matrices, int64_t block) {
  size_t m = matrices.size() - 1;
  while (matrices[m].first_block > block) --m;
  return matrices[m];
}

// What each helper reads first: the beginning of its range, as far as that is of one matrix.
std::vector<emu::Share> Shares(const std::vector<Matrix>& matrices, int64_t blocks, int64_t n) {
  std::vector<emu::Share> shares;
  const int64_t threads = emu::Helpers::Get().ThreadsFor(blocks);
  for (int64_t t = 1; t < threads; ++t) {
    const int64_t block = emu::Loop::FirstOf(t, blocks, threads);
    const Matrix& a = MatrixOf(matrices, block);
    const int64_t row_bytes = n * WidthOf(a.dtype);
    const int64_t first = (block - a.first_block) * a.block_rows;
    const int64_t end = (emu::Loop::FirstOf(t + 1, blocks, threads) - a.first_block) * a.block_rows;
    shares.push_back({static_cast<const char*>(a.weights) + first * row_bytes,
                      std::min((std::min(end, a.rows) - first) * row_bytes, kMostAhead)});
  }
  return shares;
}

// The part of a buffer that is one layer's: all of it, or the layer-th of so many in a stack.
struct Part {
  const char* data;
  int64_t count;
};

Part PartOf(const ffi::AnyBuffer& buffer, const int32_t* layer) {
  Part part{static_cast<const char*>(buffer.untyped_data()),
            static_cast<int64_t>(buffer.element_count())};
  if (layer == nullptr) return part;
  const int64_t layers = std::max<int64_t>(buffer.dimensions().size() ? buffer.dimensions()[0] : 1, 1);
  part.count /= layers;
  // A slice of fixed shape clamps an index past the end; so does this.
  const int64_t index = std::clamp<int64_t>(*layer, 0, layers - 1);
  part.data += index * part.count * WidthOf(buffer.element_type());
  return part;
}

ffi::Error Products(ffi::AnyBuffer x, const int32_t* layer, ffi::RemainingArgs args,
                    ffi::RemainingRets rets) {
  if (x.element_type() != ffi::DataType::F32) return ffi::Error::InvalidArgument("x: not float32");
  const int64_t n = static_cast<int64_t>(x.element_count());
  const float* const input = static_cast<const float*>(x.untyped_data());
  std::vector<Matrix> matrices;
  matrices.reserve(rets.size());
  int64_t blocks = 0;
  size_t next = 0;
  for (size_t i = 0; i < rets.size(); ++i) {
    auto w = args.get<ffi::AnyBuffer>(next++);
    auto y = rets.get<ffi::AnyBuffer>(i);
    if (!w || !y) return ffi::Error::InvalidArgument("fewer matrices than results");
    if (!Takes(w->element_type())) return ffi::Error::InvalidArgument("weights: not float32, bfloat16 or int8");
    Matrix m{};
    m.dtype = w->element_type();
    if (layer != nullptr && w->dimensions().size() != 3)
      return ffi::Error::InvalidArgument("weights: not [layers, out, in]");
    const Part weights = PartOf(*w, layer);
    m.weights = weights.data;
    m.y = static_cast<float*>((*y)->untyped_data());
    m.rows = static_cast<int64_t>((*y)->element_count());
    if ((*y)->element_type() != ffi::DataType::F32 ||
        weights.count != m.rows * n)
      return ffi::Error::InvalidArgument("weights: not [out, in]");
    if (m.dtype == ffi::DataType::S8) {
      auto scale = args.get<ffi::AnyBuffer>(next++);
      if (!scale || scale->element_type() != ffi::DataType::F32 ||
          PartOf(*scale, layer).count != m.rows)
        return ffi::Error::InvalidArgument("int8 weights need a float32 scale [out]");
      m.scale = reinterpret_cast<const float*>(PartOf(*scale, layer).data);
    }
    m.block_rows = std::max<int64_t>(kBlockWeights / std::max<int64_t>(n, 1), 1);
    m.first_block = blocks;
    blocks += (m.rows + m.block_rows - 1) / m.block_rows;
    matrices.push_back(m);
  }
  if (next != args.size()) return ffi::Error::InvalidArgument("more arguments than results use");

  if (blocks == 0) return ffi::Error::Success();
  auto following = emu::Order::Get().Begin(matrices[0].weights, Shares(matrices, blocks, n));
  auto multiply = [matrices = std::move(matrices), input, n](int64_t block) {
    const Matrix& a = MatrixOf(matrices, block);
    const int64_t begin = (block - a.first_block) * a.block_rows;
    MultiplyRows(a, input, n, begin, std::min(begin + a.block_rows, a.rows));
  };
  emu::ForBlocks(blocks, std::move(multiply), std::move(following));
  emu::Order::Get().End();
  return ffi::Error::Success();
}

ffi::Error MatVec(ffi::AnyBuffer x, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  return Products(x, nullptr, args, rets);
}

ffi::Error MatVecOfStack(ffi::AnyBuffer x, ffi::Buffer<ffi::S32> layer, ffi::RemainingArgs args,
                         ffi::RemainingRets rets) {
  return Products(x, layer.typed_data(), args, rets);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(emu_matvec_of_stack, MatVecOfStack,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .RemainingArgs()
                                  .RemainingRets());

XLA_FFI_DEFINE_HANDLER_SYMBOL(emu_matvec, MatVec,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .RemainingRets());

// For tests: the bytes that a helper thread (from 0) is to fetch after a product with these weights,
// and where they begin; 0 where nothing is known to follow.
extern "C" int64_t emu_expected(const void* weights, int64_t helper, const void** begin) {
  const auto shares = emu::Order::Get().After(weights);
  if (helper < 0 || helper >= static_cast<int64_t>(shares.size())) return 0;
  *begin = shares[static_cast<size_t>(helper)].begin;
  return shares[static_cast<size_t>(helper)].bytes;
}
