// Maps X to T with H(T) <= rate that keep much of X (Ebrahimi, Chen and Khisti 2024). Codes are states of their chain,
// which merges the largest masses one after the other, with at most one more merge.
#include <algorithm>
#include <vector>

#include "coupling_parts.hpp"

namespace entropic {
namespace cpu {
namespace {

// The first `chain` of the sorted masses are one column, the others a column each; columns first < second are merged
// where second > 0.
struct Code {
  std::size_t chain = 1, first = 0, second = 0;
  double entropy = 0;
};

// A mass of column `column`, some of which moves to a new column.
struct Move {
  std::size_t rank = 0;
  std::uint64_t mass = 0;
  double information = 0;
};

class Codes {
 public:
  Codes(const std::vector<std::uint64_t>& masses, std::uint64_t total, double rate)
      : p_(masses), total_(static_cast<double>(total)), rate_(rate), prefix_(masses.size() + 1, 0) {
    for (std::size_t i = 0; i < p_.size(); ++i) prefix_[i + 1] = prefix_[i] + p_[i];
  }

  // -x log2 x of a mass.
  double h(std::uint64_t mass) const {
    if (mass == 0) return 0;
    const double x = static_cast<double>(mass) / total_;
    return -x * log2_of(x);
  }
  // How much entropy falls when two columns become one.
  double drop(std::uint64_t a, std::uint64_t b) const { return h(a) + h(b) - h(a + b); }

  std::size_t columns(std::size_t chain) const { return p_.size() - chain + 1; }
  std::uint64_t column(std::size_t chain, std::size_t c) const { return c == 0 ? prefix_[chain] : p_[chain + c - 1]; }

  // Every entropy that counts is summed here, column by column.
  double entropy(const Code& code, const Move* move = nullptr) const {
    CompensatedSum sum;
    for (std::size_t c = 0; c < columns(code.chain); ++c) {
      if (code.second && c == code.second) continue;
      std::uint64_t mass = column(code.chain, c);
      if (code.second && c == code.first) mass += column(code.chain, code.second);
      if (move && c == column_of(code, move->rank)) mass -= move->mass;
      sum.add(h(mass));
    }
    if (move) sum.add(h(move->mass));
    return sum.value();
  }
  std::size_t column_of(const Code& code, std::size_t rank) const {
    const std::size_t c = rank < code.chain ? 0 : rank - code.chain + 1;
    return code.second && c == code.second ? code.first : c;
  }

  // Walks the chain from its end: the last state above the rate, 0 where even the first is not, and the first state
  // from which merging the two smallest masses reaches it, 0 if there is none above the rate.
  struct Chain {
    std::size_t last_above = 0, first_near = 0;
  };
  Chain chain() const {
    Chain found;
    const std::size_t n = p_.size();
    CompensatedSum rest;  // of the masses past the chain
    for (std::size_t j = n; j > 0; --j) {
      const double level = rest.value() + h(prefix_[j]);
      if (level > rate_) {
        if (!found.last_above) found.last_above = j;
        const std::size_t m = columns(j);
        if (level - drop(column(j, m - 2), column(j, m - 1)) > rate_) break;
        found.first_near = j;
      }
      rest.add(h(p_[j - 1]));
    }
    return found;
  }

  bool reaches(Code& code) const {
    code.entropy = entropy(code);
    return code.entropy <= rate_;
  }

  // The paper's Algorithm 1: merge the two largest until that, or merging the two smallest, reaches the rate.
  Code greedy(const Chain& chain) const {
    if (chain.first_near) {
      const std::size_t m = columns(chain.first_near);
      Code code{chain.first_near, m - 2, m - 1, 0};
      if (reaches(code)) return code;
    }
    for (Code code{chain.last_above + 1, 0, 0, 0};; ++code.chain)
      if (reaches(code)) return code;
  }

  // Of one state's pairs, the one whose merge falls least beneath the rate; columns are sorted and `drop` grows in
  // both, so two ends walk towards each other. Nothing where no pair reaches it.
  bool best_pair(std::size_t chain, double level, Code& best) const {
    double need = level - rate_;
    for (;;) {
      double least = 2 * h(prefix_.back() / 2) + 1;
      Code found{chain, 0, 0, 0};
      for (std::size_t i = 0, j = columns(chain) - 1; i < j;) {
        const double fall = drop(column(chain, i), column(chain, j));
        if (fall < need) {
          --j;
          continue;
        }
        if (fall < least) {
          least = fall;
          found = {chain, i, j, 0};
        }
        ++i;
      }
      if (!found.second) return false;
      if (reaches(found)) {
        best = found;
        return true;
      }
      need = least + 1e-15 * (1 + level);  // rounding: the sum of the columns has the last word
    }
  }

  // The chain, merged with the smallest mass that reaches the rate: most of what is lost there can be moved back.
  bool lightest_merge(std::size_t chain, double level, Code& found) const {
    std::size_t low = 1, high = columns(chain) - 1;
    while (low < high) {
      const std::size_t middle = low + (high - low + 1) / 2;
      level - drop(column(chain, 0), column(chain, middle)) <= rate_ ? low = middle : high = middle - 1;
    }
    found = {chain, 0, low, 0};
    return reaches(found);
  }

  // The column's best mass to divide, so that H(T) comes up to the rate: moving e of a mass p out of a column t lifts
  // H(T) by h(t - e) + h(e) - h(t), and costs H(T|X) = h(p - e) + h(e) - h(p), least for the smallest p that has e.
  Move best_move(const Code& code, std::size_t column_index) const {
    std::vector<std::size_t> members;  // ranks, largest mass first
    for (std::size_t rank = 0; rank < code.chain && column_index == 0; ++rank) members.push_back(rank);
    if (column_index > 0) members.push_back(code.chain + column_index - 1);
    if (code.second && column_index == code.first) members.push_back(code.chain + code.second - 1);
    if (members.size() < 2) return {};
    std::uint64_t t = 0;
    for (const std::size_t rank : members) t += p_[rank];
    const double lift = rate_ - code.entropy;
    const auto lifts = [&](std::uint64_t e) { return h(t - e) + h(e) - h(t); };
    // The largest e of at most t / 2 that keeps the rate.
    std::uint64_t low = 0, high = t / 2;
    while (low < high) {
      const std::uint64_t middle = low + (high - low + 1) / 2;
      lifts(middle) <= lift ? low = middle : high = middle - 1;
    }
    std::sort(members.begin(), members.end(), [&](std::size_t a, std::size_t b) { return p_[a] > p_[b]; });
    std::size_t k = members.size() - 1;
    while (k > 0 && p_[members[k]] < low) --k;
    Move move{members[k], std::min(low, p_[members[k]]), 0};
    while (move.mass > 0) {
      const double code_entropy = entropy(code, &move);
      if (code_entropy <= rate_) {
        const std::uint64_t p = p_[move.rank];
        move.information = code_entropy - (h(p - move.mass) + h(move.mass) - h(p));
        return move;
      }
      move.mass -= std::max<std::uint64_t>(1, move.mass >> 40);
    }
    return {};
  }

 private:
  const std::vector<std::uint64_t>& p_;
  double total_, rate_;
  std::vector<std::uint64_t> prefix_;
};

Encoder encoder_of(const Sorted& sorted, index_t n, const Codes& codes, const Code& code, const Move& move) {
  Encoder encoder;
  encoder.label.assign(static_cast<std::size_t>(n), -1);
  std::vector<std::int32_t> labels(codes.columns(code.chain), -1);
  for (std::size_t rank = 0; rank < sorted.size(); ++rank) {
    std::int32_t& label = labels[codes.column_of(code, rank)];
    if (label < 0) label = static_cast<std::int32_t>(encoder.labels++);
    encoder.label[static_cast<std::size_t>(sorted.index[rank])] = label;
  }
  encoder.information = encoder.code_entropy = code.entropy;
  if (move.mass > 0) {
    const std::size_t split = static_cast<std::size_t>(sorted.index[move.rank]);
    encoder.code_entropy = codes.entropy(code, &move);
    encoder.information = move.information;
    if (move.mass == sorted.mass[move.rank]) {
      encoder.label[split] = static_cast<std::int32_t>(encoder.labels++);
    } else {
      encoder.split = static_cast<index_t>(split);
      encoder.other = static_cast<std::int32_t>(encoder.labels++);
      encoder.moved = move.mass;
    }
  }
  return encoder;
}

}  // namespace

Encoder bottleneck_encode(const std::uint64_t* mass, index_t n, std::uint64_t total, double rate, Search search) {
  Sorted sorted;
  sort_masses(mass, n, total, sorted);
  const Codes codes(sorted.mass, total, rate);
  Code identity;
  if (codes.reaches(identity)) return encoder_of(sorted, n, codes, identity, {});
  const auto chain = codes.chain();
  Code best = codes.greedy(chain);
  if (search == Search::greedy) return encoder_of(sorted, n, codes, best, {});
  Code state{chain.last_above, 0, 0, 0};
  codes.reaches(state);
  std::vector<Code> candidates{best};
  Code found;
  if (codes.best_pair(chain.last_above, state.entropy, found)) candidates.push_back(found);
  if (candidates.back().entropy > best.entropy) best = candidates.back();
  Move move;
  if (search == Search::moves) {
    if (codes.lightest_merge(chain.last_above, state.entropy, found)) candidates.push_back(found);
    move.information = best.entropy;
    Code divided;
    for (const Code& code : candidates) {
      for (const std::size_t column : {std::size_t(0), code.first}) {
        const Move better = codes.best_move(code, column);
        if (better.mass > 0 && better.information > move.information) {
          move = better;
          divided = code;
        }
      }
    }
    if (move.mass > 0) best = divided;
  }
  return encoder_of(sorted, n, codes, best, move);
}

}  // namespace cpu
}  // namespace entropic
