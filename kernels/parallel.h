// A loop over blocks on the threads of XLA's own pool.
#ifndef EMU_KERNELS_PARALLEL_H_
#define EMU_KERNELS_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "xla/ffi/api/ffi.h"

namespace emu {

// Calls work(block) once for each block, and returns when all are done.
//
// Each thread begins with a range of neighbouring blocks, since one long stream comes from DRAM a
// quarter faster than short ones taken in turn, and then helps with the ranges that are not done:
// a thread that starts late (or never) costs nothing but its share. The calling thread works too
// and waits only for blocks that another thread has begun; it never waits for a thread to become
// free, so handlers that run at the same time cannot deadlock. `work` lives as long as any of the
// threads holds it.
template <typename Work>
void ForBlocks(xla::ffi::ThreadPool& pool, int64_t blocks, Work work) {
  struct alignas(64) Range {  // a cache line each, as every block taken writes one
    std::atomic<int64_t> next;
    int64_t end;
  };
  struct Shared {
    Shared(Work w, int64_t blocks, int64_t threads)
        : work(std::move(w)), threads(threads), ranges(new Range[threads]) {
      for (int64_t t = 0; t < threads; ++t) {
        ranges[t].next = blocks * t / threads;
        ranges[t].end = blocks * (t + 1) / threads;
      }
    }
    void Run(int64_t first) {
      for (int64_t t = 0; t < threads; ++t) {
        Range& range = ranges[(first + t) % threads];
        for (int64_t block; (block = range.next.fetch_add(1)) < range.end;) {
          work(block);
          done.fetch_add(1, std::memory_order_release);
        }
      }
    }
    const Work work;
    const int64_t threads;
    const std::unique_ptr<Range[]> ranges;
    std::atomic<int64_t> done{0};
  };
  const int64_t threads = std::max<int64_t>(std::min(pool.num_threads(), blocks), 1);
  auto shared = std::make_shared<Shared>(std::move(work), blocks, threads);
  for (int64_t t = 1; t < threads; ++t) pool.Schedule([shared, t] { shared->Run(t); });
  shared->Run(0);
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
