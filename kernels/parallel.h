// A loop over blocks on the threads of XLA's own pool.
#ifndef EMU_KERNELS_PARALLEL_H_
#define EMU_KERNELS_PARALLEL_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "xla/ffi/api/ffi.h"

namespace emu {

// Calls work(block) once for each block, and returns when all are done.
//
// Blocks are handed out through one atomic counter, so a thread that starts late (or never) costs
// nothing but its share. The calling thread works too and waits only for blocks that another
// thread has begun: it never waits for a thread to become free, so handlers that run at the same
// time cannot deadlock. `work` is kept alive by the threads that still hold it.
template <typename Work>
void ForBlocks(xla::ffi::ThreadPool& pool, int64_t blocks, Work work) {
  struct Shared {
    Shared(Work w, int64_t n) : work(std::move(w)), blocks(n) {}
    void Run() {
      for (int64_t block; (block = next.fetch_add(1, std::memory_order_relaxed)) < blocks;) {
        work(block);
        done.fetch_add(1, std::memory_order_release);
      }
    }
    const Work work;
    const int64_t blocks;
    std::atomic<int64_t> next{0};
    std::atomic<int64_t> done{0};
  };
  auto shared = std::make_shared<Shared>(std::move(work), blocks);
  const int64_t threads = pool.num_threads();
  for (int64_t t = 1; t < threads && t < blocks; ++t) pool.Schedule([shared] { shared->Run(); });
  shared->Run();
  while (shared->done.load(std::memory_order_acquire) < blocks) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
}

}  // namespace emu

#endif  // EMU_KERNELS_PARALLEL_H_
