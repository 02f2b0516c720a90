// A loop over blocks on every core, by helper threads that wait awake for the next loop.
#ifndef EMU_KERNELS_PARALLEL_H_
#define EMU_KERNELS_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace emu {

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Neighbouring bytes that one thread is going to read.
struct Share {
  const char* begin;
  int64_t bytes;
};

// A loop that several threads work on. Each begins with a range of neighbouring blocks, since one
// long stream comes from DRAM a quarter faster than short ones taken in turn, and then helps with
// the ranges that are not done: a thread that starts late (or never) costs nothing but its share.
class Loop {
 public:
  Loop(int64_t blocks, int64_t threads, std::vector<Share> next)
      : blocks_(blocks), threads_(threads), ranges_(new Range[threads]), next_(std::move(next)) {
    for (int64_t t = 0; t < threads; ++t) {
      ranges_[t].next = FirstOf(t, blocks, threads);
      ranges_[t].end = FirstOf(t + 1, blocks, threads);
    }
  }
  virtual ~Loop() = default;

  // The first block of a thread's range.
  static int64_t FirstOf(int64_t thread, int64_t blocks, int64_t threads) {
    return blocks * thread / threads;
  }

  void Run(int64_t first) {
    for (int64_t t = 0; t < threads_; ++t) {
      Range& range = ranges_[(first + t) % threads_];
      for (int64_t block; (block = range.next.fetch_add(1)) < range.end;) {
        Do(block);
        done_.fetch_add(1, std::memory_order_release);
      }
    }
  }
  bool Done() const { return done_.load(std::memory_order_acquire) == blocks_; }

  // Fetches what this helper will probably read next, until it has something else to do.
  template <typename Idle>
  void FetchAhead(size_t helper, Idle idle) const {
    if (helper >= next_.size()) return;
    const Share& share = next_[helper];
    for (int64_t byte = 0; byte < share.bytes && idle(); byte += 64)
      __builtin_prefetch(share.begin + byte, 0, 2);
  }

 private:
  struct alignas(64) Range {  // a cache line each, as every block taken writes one
    std::atomic<int64_t> next;
    int64_t end;
  };
  virtual void Do(int64_t block) = 0;
  const int64_t blocks_, threads_;
  const std::unique_ptr<Range[]> ranges_;
  const std::vector<Share> next_;  // of each helper
  std::atomic<int64_t> done_{0};
};

// The process's helper threads. A step calls some hundred loops a few microseconds apart, and
// waking a thread takes as long as that: a helper stays awake for a while after each loop.
//
// A helper that the scheduler puts on the core of the thread that it helps halves both, and it stays
// there for milliseconds, even beside an idle core. So helpers are kept off that core.
class Helpers {
 public:
  static constexpr int64_t kAwakeUs = 200;
  static constexpr size_t kMostMoved = 15;  // helpers: moving each takes a microsecond or two

  static Helpers& Get() {
    static Helpers* const helpers = new Helpers;  // never freed: threads outlive static destructors
    return *helpers;
  }
  // How many threads a loop of so many blocks is for, the calling one included.
  int64_t ThreadsFor(int64_t blocks) const {
    return std::max<int64_t>(std::min(static_cast<int64_t>(slots_.size()) + 1, blocks), 1);
  }

  void Offer(const std::shared_ptr<Loop>& loop) {
    for (auto& slot : slots_) {
      {
        std::lock_guard<std::mutex> lock(slot->mutex);
        KeepOffThisCore(*slot);
        slot->loop = loop;
        slot->offered.fetch_add(1);  // under the lock, or a helper that goes to sleep misses it
      }
      if (slot->asleep.load()) slot->wake.notify_one();
    }
  }

 private:
  struct Slot {
    std::mutex mutex;
    std::condition_variable wake;
    std::shared_ptr<Loop> loop;
#if defined(__linux__)
    pthread_t thread{};
    int kept_off = -1;  // which core
#endif
    alignas(64) std::atomic<uint64_t> offered{0};
    std::atomic<bool> asleep{false};
  };

  Helpers() {
    for (int64_t t = 1; t < Cores(); ++t) {
      slots_.push_back(std::make_unique<Slot>());
      std::thread thread([slot = slots_.back().get(), t] { Serve(*slot, t); });
#if defined(__linux__)
      slots_.back()->thread = thread.native_handle();  // it never ends
#endif
      thread.detach();
    }
  }

  // Moves a helper elsewhere, now, where it may run on the core that this thread runs on.
  void KeepOffThisCore([[maybe_unused]] Slot& slot) {
#if defined(__linux__)
    const int here = sched_getcpu();
    if (here < 0 || here == slot.kept_off || slots_.size() > kMostMoved) return;
    cpu_set_t others;
    if (sched_getaffinity(0, sizeof others, &others) != 0) return;
    CPU_CLR(here, &others);
    if (CPU_COUNT(&others) == 0) return;  // it may come to have others again
    if (pthread_setaffinity_np(slot.thread, sizeof others, &others) == 0) slot.kept_off = here;
#endif
  }

  static int64_t Cores() {
#if defined(__linux__)
    cpu_set_t mine;
    if (sched_getaffinity(0, sizeof mine, &mine) == 0) return CPU_COUNT(&mine);
#endif
    return std::thread::hardware_concurrency();
  }

  static void Serve(Slot& slot, int64_t number) {
    uint64_t seen = 0;
    for (;;) {
      const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(kAwakeUs);
      while (slot.offered.load(std::memory_order_acquire) == seen) {
        for (int i = 0; i < 32; ++i) Pause();
        if (std::chrono::steady_clock::now() < until) continue;
        std::unique_lock<std::mutex> lock(slot.mutex);
        slot.asleep.store(true);
        slot.wake.wait(lock, [&] { return slot.offered.load() != seen; });
        slot.asleep.store(false);
      }
      std::shared_ptr<Loop> loop;
      {
        std::lock_guard<std::mutex> lock(slot.mutex);
        seen = slot.offered.load();
        loop = std::move(slot.loop);
      }
      if (!loop) continue;
      loop->Run(number);
      loop->FetchAhead(number - 1, [&] { return slot.offered.load() == seen; });
    }
  }

  std::vector<std::unique_ptr<Slot>> slots_;
};

// Calls work(block) once for each block, and returns when all are done.
//
// The calling thread works too and waits only for blocks that another thread has begun; it never
// waits for a thread to become free, so handlers that run at the same time cannot deadlock. `work`
// lives as long as any of the threads holds it. `next`: what each helper will probably read after it.
template <typename Work>
void ForBlocks(int64_t blocks, Work work, std::vector<Share> next = {}) {
  struct Held : Loop {
    Held(Work w, int64_t blocks, int64_t threads, std::vector<Share> next)
        : Loop(blocks, threads, std::move(next)), work(std::move(w)) {}
    void Do(int64_t block) override { work(block); }
    const Work work;
  };
  Helpers& helpers = Helpers::Get();
  const int64_t threads = helpers.ThreadsFor(blocks);
  const auto loop = std::make_shared<Held>(std::move(work), blocks, threads, std::move(next));
  if (threads > 1) helpers.Offer(loop);
  loop->Run(0);
  while (!loop->Done()) Pause();
}

}  // namespace emu

#endif  // EMU_KERNELS_PARALLEL_H_
