// Which product comes after which, so that idle threads can begin to fetch its weights.
#ifndef EMU_KERNELS_AHEAD_H_
#define EMU_KERNELS_AHEAD_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "parallel.h"

namespace emu {

// A decode step makes the same calls again and again, and between two of them, while norms and
// activations are worked out, nothing would be read from memory. So each call is remembered by where
// its weights lie, with the call that followed it at once. What comes after a pause is not: the next
// step, which may be timed by itself, is to find its weights where they are said to be. Memory that
// was given back meanwhile does no harm: a prefetch of an address that is none is dropped. Nor does
// a guess that is wrong.
class Order {
 public:
  static Order& Get() {
    static Order* const order = new Order;
    return *order;
  }

  // Notes that the call with these weights begins, of which each helper thread reads `shares`, and
  // gives the shares of the call that came after it when it was last made.
  std::vector<Share> Begin(const void* weights, std::vector<Share> shares) {
    const auto now = std::chrono::steady_clock::now();
    std::lock_guard<std::mutex> lock(mutex_);
    Entry& before = Of(last_);
    before.weights = last_;
    if (now - ended_ > kPause) shares.clear();
    before.next = std::move(shares);
    last_ = weights;
    return NextOf(weights);
  }

  void End() {
    std::lock_guard<std::mutex> lock(mutex_);
    ended_ = std::chrono::steady_clock::now();
  }

  std::vector<Share> After(const void* weights) {
    std::lock_guard<std::mutex> lock(mutex_);
    return NextOf(weights);
  }

 private:
  static constexpr std::chrono::microseconds kPause{30};  // of norms and activations: a few
  static constexpr int kBits = 12;  // of entries: a large model's step makes some hundred calls
  struct Entry {
    const void* weights = nullptr;
    std::vector<Share> next;
  };

  Entry& Of(const void* weights) {
    // Weights lie on cache lines at least, and the multiplier spreads neighbours.
    const uint64_t mixed = (reinterpret_cast<uintptr_t>(weights) >> 6) * 0x9E3779B97F4A7C15u;
    return entries_[mixed >> (64 - kBits)];
  }
  std::vector<Share> NextOf(const void* weights) {
    const Entry& here = Of(weights);
    return here.weights == weights ? here.next : std::vector<Share>();
  }

  std::mutex mutex_;
  const void* last_ = nullptr;
  std::chrono::steady_clock::time_point ended_;
  std::array<Entry, size_t{1} << kBits> entries_;
};

}  // namespace emu

#endif  // EMU_KERNELS_AHEAD_H_
