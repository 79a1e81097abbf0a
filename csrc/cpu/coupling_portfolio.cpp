// Heuristics that often beat the greedy coupling. Each cell takes away at least one mass, so none is met twice.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <queue>
#include <vector>

#include "coupling_parts.hpp"
#include "pool.hpp"

namespace entropic {
namespace cpu {
namespace {

void emit(Cells& cells, std::int32_t i, std::int32_t j, std::uint64_t mass) {
  cells.index.push_back(i);
  cells.index.push_back(j);
  cells.mass.push_back(mass);
}

// Of the larger mass, how much the two differ: the same double on every machine.
double relative_gap(std::uint64_t a, std::uint64_t b) {
  const std::uint64_t large = std::max(a, b), small = std::min(a, b);
  return static_cast<double>(large - small) / static_cast<double>(large);
}

// Masses of one or both sides in order, smallest first, that are inserted and erased: blocks of adjacent entries, found
// by their last ones.
struct Entry {
  std::uint64_t mass;
  std::uint32_t id;
};
inline bool operator<(const Entry& a, const Entry& b) { return a.mass != b.mass ? a.mass < b.mass : a.id < b.id; }
inline bool operator==(const Entry& a, const Entry& b) { return a.mass == b.mass && a.id == b.id; }

class OrderedBlocks {
 public:
  // `entries` are in order.
  explicit OrderedBlocks(const std::vector<Entry>& entries) {
    for (std::size_t first = 0; first < entries.size(); first += kBlock / 2) {
      const auto begin = entries.begin() + static_cast<std::ptrdiff_t>(first);
      const auto end = entries.begin() + static_cast<std::ptrdiff_t>(std::min(first + kBlock / 2, entries.size()));
      blocks_.emplace_back(begin, end);
      last_.push_back(blocks_.back().back());
    }
  }
  bool empty() const { return blocks_.empty(); }
  const Entry& largest() const { return last_.back(); }
  // Up to `most` entries from the largest down.
  std::size_t largest(std::size_t most, Entry* out) const {
    std::size_t count = 0;
    for (std::size_t b = blocks_.size(); b-- > 0;)
      for (std::size_t i = blocks_[b].size(); i-- > 0;) {
        if (count == most) return count;
        out[count++] = blocks_[b][i];
      }
    return count;
  }

  struct Neighbours {
    Entry below, above;
    bool has_below, has_above;
  };
  Neighbours insert(const Entry& entry) {
    if (blocks_.empty()) {
      blocks_.push_back({entry});
      last_.push_back(entry);
      return {{}, {}, false, false};
    }
    const std::size_t b =
        std::min(static_cast<std::size_t>(std::lower_bound(last_.begin(), last_.end(), entry) - last_.begin()),
                 blocks_.size() - 1);
    Block& block = blocks_[b];
    const std::size_t at =
        static_cast<std::size_t>(std::lower_bound(block.begin(), block.end(), entry) - block.begin());
    block.insert(block.begin() + static_cast<std::ptrdiff_t>(at), entry);
    last_[b] = block.back();
    const Neighbours around = neighbours(b, at, at + 1);
    if (block.size() == kBlock) {
      Block upper(block.begin() + kBlock / 2, block.end());
      block.resize(kBlock / 2);
      last_[b] = block.back();
      last_.insert(last_.begin() + static_cast<std::ptrdiff_t>(b) + 1, upper.back());
      blocks_.insert(blocks_.begin() + static_cast<std::ptrdiff_t>(b) + 1, std::move(upper));
    }
    return around;
  }
  // Those that become neighbours of each other.
  Neighbours erase(const Entry& entry) {
    const std::size_t b = static_cast<std::size_t>(std::lower_bound(last_.begin(), last_.end(), entry) - last_.begin());
    Block& block = blocks_[b];
    const std::size_t at =
        static_cast<std::size_t>(std::lower_bound(block.begin(), block.end(), entry) - block.begin());
    const Neighbours around = neighbours(b, at, at + 1);
    block.erase(block.begin() + static_cast<std::ptrdiff_t>(at));
    if (block.empty()) {
      blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(b));
      last_.erase(last_.begin() + static_cast<std::ptrdiff_t>(b));
    } else {
      last_[b] = block.back();
    }
    return around;
  }

 private:
  static constexpr std::size_t kBlock = 256;
  using Block = std::vector<Entry>;

  // Of what lies in block b from `first` to before `end`.
  Neighbours neighbours(std::size_t b, std::size_t first, std::size_t end) const {
    const Block& block = blocks_[b];
    Neighbours around{{}, {}, first > 0 || b > 0, end < block.size() || b + 1 < blocks_.size()};
    if (around.has_below) around.below = first > 0 ? block[first - 1] : blocks_[b - 1].back();
    if (around.has_above) around.above = end < block.size() ? block[end] : blocks_[b + 1].front();
    return around;
  }

  std::vector<Block> blocks_;
  std::vector<Entry> last_;
};

// The masses that are left of both sides; in an id the lowest bit is the side.
std::uint32_t id_of(int side, std::size_t rank) {
  return static_cast<std::uint32_t>(rank) * 2 + static_cast<std::uint32_t>(side);
}
int side_of(std::uint32_t id) { return static_cast<int>(id & 1); }

constexpr std::size_t kPatience = 4096;
bool may_go_on(const Cells& cells) { return cells.mass.size() % kPatience != 0 || !work_stopped(); }

// A pair of neighbours of different sides, as they were when they met.
struct Pair {
  double gap;
  Entry a, b;
};
// For a heap with the closest pair on top.
bool operator<(const Pair& x, const Pair& y) {
  if (x.gap != y.gap) return x.gap > y.gap;
  return x.a == y.a ? y.b < x.b : x.a < y.a;
}

}  // namespace

// The two masses whose ratio is closest to one meet. They are neighbours in the order of all masses.
bool closest_ratio(const Sides& sides, Cells& cells) {
  std::vector<Entry> entries;
  std::vector<std::uint64_t> left[2] = {sides[0].mass, sides[1].mass};
  for (int side = 0; side < 2; ++side)
    for (std::size_t i = 0; i < left[side].size(); ++i) entries.push_back({left[side][i], id_of(side, i)});
  std::sort(entries.begin(), entries.end());
  std::vector<Pair> start;
  const auto pair_of = [](const Entry& x, const Entry& y) -> Pair {
    return side_of(x.id) == 0 ? Pair{relative_gap(x.mass, y.mass), x, y} : Pair{relative_gap(x.mass, y.mass), y, x};
  };
  for (std::size_t i = 1; i < entries.size(); ++i)
    if (side_of(entries[i - 1].id) != side_of(entries[i].id)) start.push_back(pair_of(entries[i - 1], entries[i]));
  std::priority_queue<Pair> pairs(std::less<Pair>(), std::move(start));
  OrderedBlocks order(entries);
  const auto meet = [&](const Entry& x, const Entry& y) {
    if (side_of(x.id) != side_of(y.id)) pairs.push(pair_of(x, y));
  };
  const auto erase = [&](const Entry& entry) {
    const OrderedBlocks::Neighbours around = order.erase(entry);
    if (around.has_below && around.has_above) meet(around.below, around.above);
  };
  while (!order.empty()) {
    const Pair pair = pairs.top();
    pairs.pop();
    const std::size_t i = pair.a.id / 2, j = pair.b.id / 2;
    if (left[0][i] != pair.a.mass || left[1][j] != pair.b.mass) continue;  // one of them has been used since
    const std::uint64_t mass = std::min(pair.a.mass, pair.b.mass);
    emit(cells, sides[0].index[i], sides[1].index[j], mass);
    if (!may_go_on(cells)) return false;
    left[0][i] -= mass;
    left[1][j] -= mass;
    erase(pair.a);
    erase(pair.b);
    const Entry rest = left[0][i] ? Entry{left[0][i], pair.a.id} : Entry{left[1][j], pair.b.id};
    if (rest.mass == 0) continue;
    const OrderedBlocks::Neighbours around = order.insert(rest);
    if (around.has_below) meet(around.below, rest);
    if (around.has_above) meet(rest, around.above);
  }
  return true;
}

bool prematch(const Sides& sides, std::uint64_t total, double tolerance, Cells& cells) {
  const std::vector<std::uint64_t>&p = sides[0].mass, &q = sides[1].mass;
  Sides rest = sides;
  for (std::size_t i = 0, j = 0; i < p.size() && j < q.size();) {
    if (relative_gap(p[i], q[j]) <= tolerance) {
      const std::uint64_t mass = std::min(p[i], q[j]);
      emit(cells, sides[0].index[i], sides[1].index[j], mass);
      rest[0].mass[i++] -= mass;
      rest[1].mass[j++] -= mass;
    } else {
      p[i] > q[j] ? ++i : ++j;
    }
  }
  for (Sorted& side : rest) {
    std::vector<Atom> atoms;
    for (std::size_t i = 0; i < side.size(); ++i)
      if (side.mass[i]) atoms.push_back({side.mass[i], side.index[i]});
    std::sort(atoms.begin(), atoms.end(), before);
    side.mass.clear();
    side.index.clear();
    for (const Atom& atom : atoms) {
      side.mass.push_back(atom.mass);
      side.index.push_back(atom.index);
    }
  }
  return rest[0].mass.empty() || greedy(rest, total, cells);
}

bool best_fit(const Sides& sides, double tolerance, Cells& cells) {
  constexpr std::size_t many = 32;
  std::vector<OrderedBlocks> order;
  for (int side = 0; side < 2; ++side) {
    const Sorted& sorted = sides[static_cast<std::size_t>(side)];
    std::vector<Entry> entries;
    for (std::size_t i = sorted.size(); i-- > 0;) entries.push_back({sorted.mass[i], id_of(side, i)});
    std::sort(entries.begin(), entries.end());
    order.emplace_back(entries);
  }
  // Couples x of side s with y of the other; returns what is left of x.
  const auto couple = [&](std::size_t s, const Entry& x, const Entry& y) -> Entry {
    const std::uint64_t mass = std::min(x.mass, y.mass);
    const std::int32_t own = sides[s].index[x.id / 2], other = sides[1 - s].index[y.id / 2];
    s == 0 ? emit(cells, own, other, mass) : emit(cells, other, own, mass);
    order[s].erase(x);
    order[1 - s].erase(y);
    if (x.mass > mass) order[s].insert({x.mass - mass, x.id});
    if (y.mass > mass) order[1 - s].insert({y.mass - mass, y.id});
    return {x.mass - mass, x.id};
  };
  while (!order[0].empty()) {
    if (!may_go_on(cells)) return false;
    const std::size_t s = order[0].largest().mass >= order[1].largest().mass ? 0 : 1;
    const Entry x = order[s].largest(), y = order[1 - s].largest();
    const std::uint64_t slack = static_cast<std::uint64_t>(tolerance * static_cast<double>(x.mass));
    if (x.mass - y.mass > slack && 2 * y.mass >= x.mass - slack) {
      Entry others[many];
      const std::size_t count = order[1 - s].largest(many, others);
      std::uint64_t best = slack + 1;
      std::size_t first = 0, second = 0;
      for (std::size_t i = 0, j = count; i + 1 < j;) {
        const std::uint64_t sum = others[i].mass + others[j - 1].mass;
        const std::uint64_t miss = sum > x.mass ? sum - x.mass : x.mass - sum;
        if (miss < best) {
          best = miss;
          first = i;
          second = j - 1;
        }
        sum > x.mass ? ++i : --j;
      }
      if (best <= slack) {
        const Entry left = couple(s, x, others[first]);
        couple(s, left, others[second]);
        continue;
      }
    }
    couple(s, x, y);
  }
  return true;
}

}  // namespace cpu
}  // namespace entropic
