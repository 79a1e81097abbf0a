// Sorted masses, and the queues from which a greedy coupling takes the largest: equal masses by index, so that every
// queue gives them in the same order.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "coupling.hpp"

namespace entropic {
namespace cpu {

inline int bit_width(std::uint64_t x) {
  int width = 0;
  for (int step = 32; step; step /= 2)
    if (x >> step) {
      x >>= step;
      width += step;
    }
  return width + static_cast<int>(x);
}

struct Atom {
  std::uint64_t mass;
  std::int32_t index;
};
inline bool before(const Atom& a, const Atom& b) { return a.mass != b.mass ? a.mass > b.mass : a.index < b.index; }
struct After {
  bool operator()(const Atom& a, const Atom& b) const { return before(b, a); }
};

// The positive masses of a marginal, largest first.
struct Sorted {
  std::vector<std::uint64_t> mass;
  std::vector<std::int32_t> index;

  std::size_t size() const { return mass.size(); }
};

// Mass and index in one integer that sorts as atoms do; for totals and sizes that leave room for both.
class Packing {
 public:
  static constexpr index_t kLargest = 2048;

  Packing(std::uint64_t total, index_t n)
      : shift_(bit_width(static_cast<std::uint64_t>(n))), fits_(n <= kLargest && bit_width(total) + shift_ <= 64) {}
  bool fits() const { return fits_; }
  int shift() const { return shift_; }
  std::uint64_t pack(std::uint64_t mass, std::int32_t index) const {
    return mass << shift_ | (mask() - static_cast<std::uint64_t>(index));
  }
  std::uint64_t mass(std::uint64_t key) const { return key >> shift_; }
  std::int32_t index(std::uint64_t key) const { return static_cast<std::int32_t>(mask() - (key & mask())); }
  // The same atom with another mass.
  std::uint64_t with_mass(std::uint64_t key, std::uint64_t mass) const { return mass << shift_ | (key & mask()); }

 private:
  std::uint64_t mask() const { return (std::uint64_t(1) << shift_) - 1; }

  int shift_;
  bool fits_;
};

// By the leading 32 bits, with the index behind them, in digits of 11 bits from the lowest: that keeps the order of
// equal ones. Then what is equal in those bits is put in order, if it is not.
inline void radix_sort(const std::uint64_t* mass, index_t n, Sorted& out) {
  constexpr int bits = 11, digits = 1 << bits, passes = 3;
  std::uint64_t any = 0;
  for (index_t i = 0; i < n; ++i) any |= mass[i];
  const int dropped = std::max(0, bit_width(any) - 32);
  const auto digit = [](std::uint64_t item, int pass) { return item >> (32 + pass * bits) & (digits - 1); };
  std::vector<std::uint64_t> items, other;
  items.reserve(static_cast<std::size_t>(n));
  std::array<std::array<std::uint32_t, digits>, passes> start{};
  for (index_t i = 0; i < n; ++i) {
    if (!mass[i]) continue;
    const std::uint64_t item = (~(mass[i] >> dropped) << 32) | static_cast<std::uint64_t>(i);
    items.push_back(item);
    for (int pass = 0; pass < passes; ++pass) ++start[static_cast<std::size_t>(pass)][digit(item, pass)];
  }
  other.resize(items.size());
  for (int pass = 0; pass < passes; ++pass) {
    auto& to = start[static_cast<std::size_t>(pass)];
    std::uint32_t sum = 0;
    for (std::uint32_t& s : to) {
      const std::uint32_t count = s;
      s = sum;
      sum += count;
    }
    for (const std::uint64_t item : items) other[to[digit(item, pass)]++] = item;
    items.swap(other);
  }
  out.mass.resize(items.size());
  out.index.resize(items.size());
  for (std::size_t i = 0; i < items.size(); ++i) {
    out.index[i] = static_cast<std::int32_t>(items[i] & 0xffffffffu);
    out.mass[i] = mass[out.index[i]];
  }
  std::vector<Atom> run;
  for (std::size_t first = 0, end; first < items.size(); first = end) {
    bool in_order = true;
    for (end = first + 1; end < items.size() && items[end] >> 32 == items[first] >> 32; ++end)
      in_order = in_order && out.mass[end] <= out.mass[end - 1];
    if (in_order) continue;
    run.clear();
    for (std::size_t i = first; i < end; ++i) run.push_back({out.mass[i], out.index[i]});
    std::sort(run.begin(), run.end(), before);
    for (std::size_t i = first; i < end; ++i) {
      out.mass[i] = run[i - first].mass;
      out.index[i] = run[i - first].index;
    }
  }
}

inline void sort_masses(const std::uint64_t* mass, index_t n, std::uint64_t total, Sorted& out) {
  const Packing packing(total, n);
  if (!packing.fits()) return radix_sort(mass, n, out);
  out.mass.clear();
  for (index_t i = 0; i < n; ++i)
    if (mass[i]) out.mass.push_back(packing.pack(mass[i], static_cast<std::int32_t>(i)));
  std::sort(out.mass.begin(), out.mass.end(), std::greater<std::uint64_t>());
  out.index.resize(out.mass.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    out.index[i] = packing.index(out.mass[i]);
    out.mass[i] = packing.mass(out.mass[i]);
  }
}

// A heap of packed atoms.
class PackedHeap {
 public:
  PackedHeap(const Sorted& sorted, const Packing& packing) : packing_(packing), keys_(sorted.size()) {
    for (std::size_t i = 0; i < keys_.size(); ++i) keys_[i] = packing.pack(sorted.mass[i], sorted.index[i]);
  }
  bool empty() const { return keys_.empty(); }
  Atom top() const { return {packing_.mass(keys_[0]), packing_.index(keys_[0])}; }
  // The largest atom keeps `mass`, less than it has.
  void reduce_top(std::uint64_t mass) { sink(packing_.with_mass(keys_[0], mass)); }
  void pop() {
    const std::uint64_t last = keys_.back();
    keys_.pop_back();
    if (!keys_.empty()) sink(last);
  }

 private:
  void sink(std::uint64_t key) {
    const std::size_t n = keys_.size();
    std::size_t hole = 0;
    for (std::size_t child = 1; child < n; child = 2 * hole + 1) {
      if (child + 1 < n && keys_[child + 1] > keys_[child]) ++child;
      if (keys_[child] <= key) break;
      keys_[hole] = keys_[child];
      hole = child;
    }
    keys_[hole] = key;
  }

  Packing packing_;
  std::vector<std::uint64_t> keys_;
};

// Few packed atoms, in order: an atom that was reduced moves down past those above it.
class PackedStack {
 public:
  static constexpr std::size_t kLargest = 48;

  PackedStack(const Sorted& sorted, const Packing& packing) : packing_(packing), size_(sorted.size()) {
    for (std::size_t i = 0; i < size_; ++i) keys_[size_ - 1 - i] = packing.pack(sorted.mass[i], sorted.index[i]);
  }
  bool empty() const { return size_ == 0; }
  Atom top() const { return {packing_.mass(keys_[size_ - 1]), packing_.index(keys_[size_ - 1])}; }
  void reduce_top(std::uint64_t mass) {
    const std::uint64_t key = packing_.with_mass(keys_[size_ - 1], mass);
    std::size_t hole = size_ - 1;
    for (; hole > 0 && keys_[hole - 1] > key; --hole) keys_[hole] = keys_[hole - 1];
    keys_[hole] = key;
  }
  void pop() { --size_; }

 private:
  Packing packing_;
  std::size_t size_;
  std::uint64_t keys_[kLargest];
};

// For many atoms: what is asked for never grows, so untouched atoms are read in their sorted order, and what is left of
// others waits in buckets by leading bits, each sorted when its turn comes.
class MonotoneQueue {
 public:
  explicit MonotoneQueue(const Sorted& sorted)
      : mass_(sorted.mass.data()), index_(sorted.index.data()), n_(sorted.size()), heads_(kBuckets) {
    chunks_.reserve(n_ / kChunk + 1024);
    settle();
  }
  bool empty() const { return source_ == Source::none; }
  const Atom& top() const { return top_; }
  void reduce_top(std::uint64_t mass) {
    const Atom rest{mass, top_.index};
    remove_top();
    insert(rest);
    settle();
  }
  void pop() {
    remove_top();
    settle();
  }

 private:
  // Buckets: the exponent and the next kFine bits, as a floating-point number has them.
  static constexpr int kFine = 7;
  static constexpr int kBuckets = (64 - kFine) << kFine;
  static constexpr int kChunk = 15;
  enum class Source { none, sorted, run, near };

  struct Chunk {
    Atom items[kChunk];
    std::int32_t next;
  };
  // A bucket's newest chunk, and how many atoms are in it; the others are full.
  struct Head {
    std::int32_t chunk = -1, used = kChunk;
  };

  static int bucket_of(std::uint64_t mass) {
    const int exponent = bit_width(mass) - 1;
    if (exponent < kFine) return static_cast<int>(mass);
    const int fine = static_cast<int>(mass >> (exponent - kFine)) - (1 << kFine);
    return ((exponent - kFine + 1) << kFine) + fine;
  }

  void insert(const Atom& atom) {
    const int bucket = bucket_of(atom.mass);
    if (bucket >= opened_) {
      near_.push_back(atom);
      std::push_heap(near_.begin(), near_.end(), After());
      return;
    }
    Head& head = heads_[static_cast<std::size_t>(bucket)];
    if (head.used == kChunk) {
      const std::int32_t fresh = take_chunk();
      chunks_[static_cast<std::size_t>(fresh)].next = head.chunk;
      head = {fresh, 0};
    }
    chunks_[static_cast<std::size_t>(head.chunk)].items[head.used++] = atom;
    waiting_ = std::max(waiting_, bucket);
  }

  std::int32_t take_chunk() {
    if (free_ < 0) {
      chunks_.emplace_back();
      return static_cast<std::int32_t>(chunks_.size() - 1);
    }
    const std::int32_t chunk = free_;
    free_ = chunks_[static_cast<std::size_t>(chunk)].next;
    return chunk;
  }

  void remove_top() {
    if (source_ == Source::sorted) {
      ++cursor_;
    } else if (source_ == Source::run) {
      run_.pop_back();
    } else {
      std::pop_heap(near_.begin(), near_.end(), After());
      near_.pop_back();
    }
  }

  // Sorts the largest bucket that waits.
  void open() {
    Head& head = heads_[static_cast<std::size_t>(waiting_)];
    while (head.chunk >= 0) {
      Chunk& chunk = chunks_[static_cast<std::size_t>(head.chunk)];
      run_.insert(run_.end(), chunk.items, chunk.items + head.used);
      const std::int32_t next = chunk.next;
      chunk.next = free_;
      free_ = head.chunk;
      head = {next, kChunk};
    }
    std::sort(run_.begin(), run_.end(), After());
    opened_ = waiting_;
    while (waiting_ >= 0 && heads_[static_cast<std::size_t>(waiting_)].chunk < 0) --waiting_;
  }

  void settle() {
    // What is in a run or near lies in opened buckets, above all that wait.
    if (waiting_ >= 0 && run_.empty() && near_.empty() && (cursor_ == n_ || bucket_of(mass_[cursor_]) <= waiting_))
      open();
    source_ = Source::none;
    if (cursor_ < n_) consider({mass_[cursor_], index_[cursor_]}, Source::sorted);
    if (!run_.empty()) consider(run_.back(), Source::run);
    if (!near_.empty()) consider(near_.front(), Source::near);
  }
  void consider(const Atom& atom, Source source) {
    if (source_ != Source::none && !before(atom, top_)) return;
    top_ = atom;
    source_ = source;
  }

  const std::uint64_t* mass_;
  const std::int32_t* index_;
  std::size_t n_, cursor_ = 0;
  std::vector<Head> heads_;
  std::vector<Chunk> chunks_;
  std::int32_t free_ = -1;
  std::vector<Atom> run_, near_;  // the opened bucket, largest last, and a heap of what came to it later
  int opened_ = kBuckets, waiting_ = -1;
  Atom top_{0, 0};
  Source source_ = Source::none;
};

}  // namespace cpu
}  // namespace entropic
