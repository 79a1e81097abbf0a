"""Minimum-entropy couplings from their definitions: plain loops on Python integers, every case of tiny problems.

A marginal is a list of non-negative integers, its masses; all marginals of one problem add up to the same `total`, and
a probability is mass / total, so sums and comparisons of masses are exact. A coupling is a list of cells
((i, j, ...), mass), mass > 0. Entropies are floats in bits: from logarithms of 40 digits, except where a function says
that it works in float64.
"""

import bisect
import functools
import heapq
import itertools
import math
from collections import Counter
from fractions import Fraction

import mpmath
import numpy as np

DIGITS = 40


def positive(masses):
    return [int(mass) for mass in masses if mass > 0]


# ---- entropies -------------------------------------------------------------------------------------------------------


def entropy(masses, total):
    """Shannon's, sum_i p_i log2(1 / p_i)."""
    total = int(total)
    with mpmath.workdps(DIGITS):
        counts = Counter(positive(masses)).items()
        return float(mpmath.fsum(n * mass * mpmath.log(mpmath.mpf(total) / mass, 2) for mass, n in counts) / total)


def entropy_fast(masses, total):
    """Shannon's in float64, each term rounded and their sum exact."""
    return math.fsum(map(shannon(total), positive(masses)))


def power_sum(masses, total, order):
    """sum_i p_i^order over the support, as an mpf of the caller's precision."""
    total, order = mpmath.mpf(int(total)), mpmath.mpf(order)
    return mpmath.fsum((mass / total) ** order for mass in positive(masses))


def renyi(masses, total, order):
    """log2(sum_i p_i^order) / (1 - order): log2 of the support size at 0, Shannon's at 1, -log2 max p at infinity."""
    masses = list(masses)
    if order == 1:
        return entropy(masses, total)
    with mpmath.workdps(DIGITS):
        if order == math.inf:
            return float(mpmath.log(mpmath.mpf(int(total)) / max(positive(masses)), 2))
        return float(mpmath.log(power_sum(masses, total, order), 2) / (1 - mpmath.mpf(order)))


def tsallis(masses, total, order):
    """(1 - sum_i p_i^order) / (order - 1): the support size less one at 0, Shannon's in nats at 1."""
    masses = list(masses)
    with mpmath.workdps(DIGITS):
        if order == 1:
            return float(entropy(masses, total) * mpmath.log(2))
        return float((1 - power_sum(masses, total, order)) / (mpmath.mpf(order) - 1))


def mutual_information(joint):
    """Of a dense matrix of probabilities, in float64."""
    joint = np.asarray(joint, np.float64)
    product = np.outer(joint.sum(axis=1), joint.sum(axis=0))
    some = joint > 0
    return math.fsum(joint[some] * np.log2(joint[some] / product[some]))


# ---- greedy couplings ------------------------------------------------------------------------------------------------


def argmax(masses):
    """The index of the largest, the first of equals."""
    return max(range(len(masses)), key=masses.__getitem__)


def greedy(*marginals):
    """The largest masses left meet, again and again; of equals, those of smaller index. Cells in that order."""
    left, cells = [[int(mass) for mass in marginal] for marginal in marginals], []
    while any(left[0]):
        index = tuple(argmax(side) for side in left)
        mass = min(side[i] for side, i in zip(left, index, strict=True))
        cells.append((index, mass))
        for side, i in zip(left, index, strict=True):
            side[i] -= mass
    return cells


def greedy_numpy(p, q):
    """The published loop on float64 arrays, as a dense matrix. They must be on the grid of 2^-53 and add up to the
    same: then every difference is exact, and both sides run out at once."""
    p, q = p.copy(), q.copy()
    coupling = np.zeros((p.size, q.size))
    while True:
        i, j = p.argmax(), q.argmax()
        x, y = p[i], q[j]
        r = x if x < y else y
        if r == 0:
            return coupling
        coupling[i, j] = r
        p[i] = x - r
        q[j] = y - r


def descending(masses):
    """(-mass, index) of the positive masses, to pop the largest first, and last a mark of no mass."""
    masses = np.asarray(masses)
    order = np.argsort(-masses, kind="stable")[: np.count_nonzero(masses)]
    return [(0, -1), *zip((-masses[order]).tolist()[::-1], order.tolist()[::-1], strict=True)]


def greedy_heap(p, q):
    """The cells of `greedy` in its order, for float64 on that grid or signed integers. Only what is left of an atom
    goes through a heap: whole atoms come from a sorted list."""
    rows, columns, rows_left, columns_left = descending(p), descending(q), [(0, -1)], [(0, -1)]
    push, pop, cells = heapq.heappush, heapq.heappop, []
    while True:
        x, i = rows.pop() if rows[-1] < rows_left[0] else pop(rows_left)
        y, j = columns.pop() if columns[-1] < columns_left[0] else pop(columns_left)
        if x == 0:
            return cells
        if x < y:
            cells.append(((i, j), -y))
            push(rows_left, (x - y, i))
        else:
            cells.append(((i, j), -x))
            if y < x:
                push(columns_left, (y - x, j))


def euclid_squares(n, m):
    """The entropy of the greedy coupling of uniform n with uniform m; no coupling has less for n + m <= 25. Euclid's
    algorithm cuts an n x m rectangle into squares; one of side s stands for s cells of probability s / (n m)."""
    area, longer, shorter = n * m, max(n, m), min(n, m)
    with mpmath.workdps(DIGITS):
        bits = mpmath.mpf(0)
        while shorter:
            squares, rest = divmod(longer, shorter)
            bits += squares * mpmath.mpf(shorter) ** 2 / area * mpmath.log(mpmath.mpf(area) / shorter, 2)
            longer, shorter = shorter, rest
        return float(bits)


# ---- lower bounds ----------------------------------------------------------------------------------------------------


def meet(*lists):
    """The largest vector that every list majorizes: its sums of largest masses are the least of theirs."""
    length = max(len(masses) for masses in lists)
    padded = [sorted(masses, reverse=True) + [0] * (length - len(masses)) for masses in lists]
    prefixes = [min(sums) for sums in zip(*map(itertools.accumulate, padded), strict=True)]
    return positive(after - before for before, after in itertools.pairwise([0, *prefixes]))


def majorization(*marginals):
    """H of the meet: every marginal, being a sum of cells, majorizes the coupling."""
    return entropy(meet(*map(positive, marginals)), sum(positive(marginals[0])))


def spectrum(*marginals):
    """Segments (start, end, g), in units of mass: between start and end, g is the least over the marginals of the mass
    of the state at that cumulative mass, states in ascending order."""
    ascending = [sorted(positive(marginal)) for marginal in marginals]
    ends = [list(itertools.accumulate(states)) for states in ascending]
    breakpoints = sorted({0}.union(*ends))
    return [
        (start, end, min(states[bisect.bisect_right(e, start)] for states, e in zip(ascending, ends, strict=True)))
        for start, end in itertools.pairwise(breakpoints)
    ]


def profile(*marginals):
    """integral_0^1 log2(1 / g(x)) dx."""
    segments = spectrum(*marginals)
    total = segments[-1][1]
    with mpmath.workdps(DIGITS):
        terms = ((end - start) * mpmath.log(mpmath.mpf(total) / g, 2) for start, end, g in segments)
        return float(mpmath.fsum(terms) / total)


def majorize_profile(*marginals):
    """States, largest first, that majorize every coupling. From R = total down to 0, the next state is the largest s
    with s <= g((R - s)+): it takes up (R - s, R] and fits under g at once to the right of R - s."""
    segments, states = spectrum(*marginals), []
    left = segments[-1][1]
    while left:
        # on a segment the condition is R - s >= R - g, so the largest s of each starts here, if it starts there at all
        starts = [(max(start, left - g), end) for start, end, g in segments if start < left]
        lowest = min(start for start, end in starts if start < end)
        states.append(left - lowest)
        left = lowest
    return states


def split(masses, largest):
    """Every mass in as many pieces of size `largest` as it holds, and a remainder."""
    pieces = []
    for mass in positive(masses):
        whole, rest = divmod(mass, largest)
        pieces += [largest] * whole + positive([rest])
    return pieces


def atom_split(*marginals):
    """States that majorize every coupling: `majorize_profile`'s, and no cell of an atom may exceed the largest atom of
    another marginal."""
    largest = [max(positive(marginal)) for marginal in marginals]
    pieces = [
        split(marginal, min(largest[:i] + largest[i + 1 :], default=largest[i])) for i, marginal in enumerate(marginals)
    ]
    return meet(majorize_profile(*marginals), *pieces)


# ---- exact optima of two marginals -----------------------------------------------------------------------------------


def shannon(total):
    """The cost of a cell whose sum over the cells is the entropy, in float64."""
    return lambda mass: -(mass / total) * math.log2(mass / total)


def tree_cells(edges, masses):
    """The masses that the edges of a spanning tree must carry to use up those of its nodes, as pairs (edge, mass > 0);
    None where the edges hold a cycle or a mass would be negative."""
    left, edges, cells = list(masses), list(edges), []
    while edges:
        degree = Counter(itertools.chain(*edges))
        edge = next((edge for edge in edges if 1 in (degree[edge[0]], degree[edge[1]])), None)
        if edge is None:
            return None
        leaf, other = edge if degree[edge[0]] == 1 else edge[::-1]
        if left[leaf] > left[other]:
            return None
        if left[leaf]:
            cells.append((edge, left[leaf]))
        left[other] -= left[leaf]
        edges.remove(edge)
    return cells


def vertices(p, q):
    """All basic feasible couplings, each once: n + m - 1 cells without a cycle, some of them perhaps empty."""
    n, m = len(p), len(q)
    nodes, couplings = [int(mass) for mass in (*p, *q)], set()
    for edges in itertools.combinations(itertools.product(range(n), range(n, n + m)), n + m - 1):
        cells = tree_cells(edges, nodes)
        if cells is not None:
            couplings.add(tuple(sorted(((i, node - n), mass) for (i, node), mass in cells)))
    return [list(cells) for cells in sorted(couplings)]


def exact(p, q, cost=None):
    """The least sum of cost(mass) over the cells, Shannon's entropy by default, in float64. The cost is concave and
    0 at 0, so a vertex attains it."""
    cost = cost or shannon(sum(positive(p)))
    return min(math.fsum(cost(mass) for _, mass in cells) for cells in vertices(p, q))


def exact_forest(p, q, cost=None):
    """The same by recursion. A vertex is a forest, and a leaf of it is an atom used up by one cell, whose mass is then
    the smaller of the two atoms that meet: so try every pair, and go on with what is left."""
    cost = cost or shannon(sum(positive(p)))

    def without(masses, mass, cell):
        i = masses.index(mass)
        return tuple(sorted(positive((*masses[:i], mass - cell, *masses[i + 1 :]))))

    @functools.cache
    def least(p, q):
        pairs = ((x, y, min(x, y)) for x in set(p) for y in set(q))
        return min((cost(r) + least(without(p, x, r), without(q, y, r)) for x, y, r in pairs), default=0.0)

    return least(tuple(sorted(positive(p))), tuple(sorted(positive(q))))


# ---- bottleneck ------------------------------------------------------------------------------------------------------

# An encoder is a map from X, of the given masses, to T; its blocks are lists of the indices that share a value of T.
# Symbols of mass 0 are in no block.


def block_entropy(masses, blocks):
    return entropy([sum(int(masses[i]) for i in block) for block in blocks], sum(positive(masses)))


def ebim_greedy(masses, rate):
    """Algorithm 1: while H(T) > rate >= 0, merge the two smallest blocks if that is enough, else the two largest."""
    # largest first, equals by index; the two largest, once merged, are the largest block again
    blocks = [[i] for i in sorted(range(len(masses)), key=lambda i: -int(masses[i])) if masses[i] > 0]
    while block_entropy(masses, blocks) > rate:
        smallest_merged = [*blocks[:-2], blocks[-2] + blocks[-1]]
        if block_entropy(masses, smallest_merged) <= rate:
            return smallest_merged
        blocks = [blocks[0] + blocks[1], *blocks[2:]]
    return blocks


def set_partitions(items):
    if not items:
        yield []
        return
    first, *rest = items
    for blocks in set_partitions(rest):
        yield [[first], *blocks]
        for k, block in enumerate(blocks):
            yield [*blocks[:k], [first, *block], *blocks[k + 1 :]]


def best_partition(masses, rate):
    """Of all functions of X with H(T) <= rate, one with the largest H(T), which is its I(X;T)."""
    support = [i for i, mass in enumerate(masses) if mass > 0]
    fitting = (blocks for blocks in set_partitions(support) if block_entropy(masses, blocks) <= rate)
    return max(fitting, key=functools.partial(block_entropy, masses))


def best_divided(masses, rate, parts=3, steps=60):
    """The largest I(X;T) found over random maps with H(T) <= rate and `parts` values of T, at least as many as X has.

    Once T's masses are chosen, I(X;T) = H(X) + H(T) - H(X,T) is largest for their minimum-entropy coupling. An optimal
    T uses all of the rate, as dividing any block of several symbols gains information. So two masses of T are as even
    as the rate allows, and the others run over a grid of `steps` to the whole and over the sums of some masses of X:
    there a cell of the coupling vanishes, which is where the information has its sharp peaks.
    """
    masses = positive(masses)
    # finer units, for T's masses
    masses = [mass << max(0, 60 - sum(masses).bit_length()) for mass in masses]
    total = sum(masses)
    if rate >= entropy(masses, total):
        return entropy(masses, total)
    sums = set(map(sum, itertools.product(*((0, mass) for mass in masses))))
    choices = sums.union(total * k // steps for k in range(steps))
    best = 0.0
    for others in itertools.combinations_with_replacement(choices, parts - 2):
        rest = total - sum(others)
        # H(T) grows as the two get more even
        halves = range(rest // 2 + 1)
        fitting = bisect.bisect_right(halves, rate, key=lambda half: entropy_fast([*others, half, rest - half], total))
        if fitting:
            law = [*others, halves[fitting - 1], rest - halves[fitting - 1]]
            best = max(best, entropy_fast(masses, total) + entropy_fast(law, total) - exact_forest(masses, law))
    return best


def composed(joint_xt, joint_ty):
    """P(x, y) = sum_t P(x, t) P(t, y) / P(t), dense, of X - T - Y, in float64."""
    joint_xt, joint_ty = np.asarray(joint_xt, np.float64), np.asarray(joint_ty, np.float64)
    p_t = joint_ty.sum(axis=1)
    some = p_t > 0
    return joint_xt[:, some] @ (joint_ty[some] / p_t[some, None])


# ---- couplings with sequences ----------------------------------------------------------------------------------------


def iterative(parts, nu):
    """Joint distribution {(x, y): probability} of the iterative coupling, in Fractions, over all x and whole sequences y.

    `parts` are lists of Fractions, and ``nu(prefix)`` gives one or None. Each step couples the part of most entropy
    greedily with the next symbol; proportional rows, found by cross-multiplying, are merged and coupled again.
    """
    joint = Counter()

    def emit(x, beliefs, symbols, q, chance):
        """Yields (symbol, beliefs, chance) for every next symbol given x."""
        entropies = [entropy([int(p * 10**30) for p in b], 10**30) for b in beliefs]
        which = max(range(len(beliefs)), key=lambda i: (entropies[i], -i))
        if len(symbols) == 1 or max(beliefs[which]) == 1:
            yield from ((s, beliefs, chance * p) for s, p in zip(symbols, q, strict=True))
            return
        table = [[0] * len(beliefs[which]) for _ in symbols]
        unit = math.lcm(*(p.denominator for p in (*q, *beliefs[which])))
        for (i, j), mass in greedy([p * unit for p in q], [p * unit for p in beliefs[which]]):
            table[i][j] = Fraction(mass, unit)
        done = set()
        for i, row in enumerate(table):
            if i in done:
                continue
            group = [
                k
                for k, other in enumerate(table)
                if all(row[a] * other[b] == row[b] * other[a] for a in range(len(row)) for b in range(a))
            ]
            done.update(group)
            given = chance * sum(table[k][x[which]] for k in group) / beliefs[which][x[which]]
            if given:
                total = sum(q[k] for k in group)
                after = [[mass / sum(row) for mass in row] if w == which else b for w, b in enumerate(beliefs)]
                yield from emit(x, after, [symbols[k] for k in group], [q[k] / total for k in group], given)

    def extend(x, y, beliefs, chance):
        q = nu(y)
        if q is None:
            joint[x, y] += chance
            return
        alive = [s for s, p in enumerate(q) if p]
        for symbol, after, given in emit(x, beliefs, alive, [q[s] for s in alive], chance):
            extend(x, (*y, symbol), after, given)

    for x in itertools.product(*(range(len(p)) for p in parts)):
        chance = math.prod(p[i] for p, i in zip(parts, x, strict=True))
        if chance:
            extend(x, (), parts, chance)
    return joint
