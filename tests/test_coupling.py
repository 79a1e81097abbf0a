"""Minimum-entropy couplings against the references, closed forms, laws and edges of their note."""

import functools
import pickle
import warnings
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_python
from reference import coupling as reference

import entropic
from entropic import _core

GRID = 2**53
METHODS = ("greedy", "portfolio", "exact")


def grid(p):
    """The package's own grid, held to its definition below."""
    counts, *_ = _core.coupling_grid(np.atleast_2d(np.asarray(p, np.float64)))
    return [int(c) for c in counts[0]]


def cells_of(coupling):
    return [((int(i), int(j)), int(c)) for (i, j), c in zip(coupling.indices, np.asarray(coupling.counts), strict=True)]


def families(rng, n, m):
    """Masses of many kinds: smooth, skewed, tied, tiny, uniform, with zeros."""
    zipf = 1 / np.arange(1, n + 1)
    tied = rng.integers(1, 4, size=m).astype(float)
    tiny = np.exp(-rng.exponential(8, size=n))
    sparse = np.where(rng.random(m) < 0.5, 0, rng.random(m))
    sparse[0] = 1
    kinds = [rng.dirichlet(np.ones(n)), zipf, tiny, np.ones(n), rng.dirichlet(np.full(n, 0.1)) + 1e-300]
    others = [rng.dirichlet(np.ones(m)), tied, sparse, np.ones(m), np.eye(1, m)[0]]
    return [(p / p.sum(), q / q.sum()) for p in kinds for q in others]


# ---- the grid --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 100, 5000])
def test_grid_is_within_one_unit_and_complete(rng, n):
    for p in (
        rng.dirichlet(np.ones(n)),
        np.exp(-rng.exponential(30, n)),
        rng.random(n) * 1e300,
        rng.random(n) * 1e-300,
    ):
        exact = [Fraction(float(x)) for x in p]
        total = sum(exact)
        counts = grid(p)
        assert sum(counts) == GRID
        assert all(abs(c - GRID * x / total) < 1 + Fraction(1, 1000) for c, x in zip(counts, exact, strict=True))
        assert all(c == 0 for c, x in zip(counts, exact, strict=True) if x == 0)


def test_masses_on_the_grid_stay(rng):
    counts = rng.multinomial(2**40, rng.dirichlet(np.ones(50))) * 2**13
    assert grid(counts / GRID) == list(counts)


def test_grid_does_not_depend_on_order_or_scale(rng):
    p = rng.dirichlet(np.ones(3000))
    order = rng.permutation(3000)
    counts = np.array(grid(p))
    assert (counts[order] == grid(p[order])).all()
    assert (counts == grid(p * 2.0**500)).all()


# ---- greedy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (4, 4), (7, 3), (40, 60), (300, 200)])
def test_greedy_is_the_published_algorithm(rng, n, m):
    for p, q in families(rng, n, m):
        coupling = entropic.minimum_entropy_coupling(p, q, method="greedy")
        want = reference.greedy(grid(p), grid(q))
        assert cells_of(coupling) == [((i, j), c) for (i, j), c in want]
        assert coupling.entropy == pytest.approx(reference.entropy([c for _, c in want], GRID), rel=1e-13, abs=1e-14)


def test_large_queues_equal_the_heap(rng):
    """Above 2048 masses buckets take over: the same cells, with ties and with tiny masses."""
    n = 6000
    for p, q in families(rng, n, n // 2):
        kp, kq = (np.array(grid(x), np.int64) for x in (p, q))
        coupling = entropic.minimum_entropy_coupling(p, q, method="greedy")
        assert cells_of(coupling) == [((i, j), int(c)) for (i, j), c in reference.greedy_heap(kp, kq)]


@pytest.mark.parametrize("k", [1, 3, 5, 12])
def test_many_marginals(rng, k):
    marginals = [rng.dirichlet(np.full(int(rng.integers(1, 30)), 0.5)) for _ in range(k)]
    coupling = entropic.minimum_entropy_coupling(*marginals, method="greedy")
    want = reference.greedy(*map(grid, marginals))
    assert [tuple(map(int, i)) for i in coupling.indices] == [tuple(i) for i, _ in want]
    assert list(coupling.counts) == [c for _, c in want]
    for method in ("greedy", "auto"):
        best = entropic.minimum_entropy_coupling(*marginals, method=method)
        assert best.verify()
        assert best.entropy <= coupling.entropy
        assert best.gap <= 1.2213


def test_many_large_marginals(rng):
    marginals = [rng.dirichlet(np.ones(n)) for n in (3000, 2500, 10)]
    coupling = entropic.minimum_entropy_coupling(*marginals, method="greedy")
    assert coupling.verify()
    masses = np.asarray(coupling.counts)
    assert (np.diff(masses) <= 0).all()


# ---- optimum and bounds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 4), (2, 2), (3, 3), (3, 4), (5, 2)])
def test_exact_is_the_least_over_all_vertices(rng, n, m):
    for p, q in families(rng, n, m):
        kp, kq = grid(p), grid(q)
        if sum(c > 0 for c in kp) * sum(c > 0 for c in kq) > 12:
            continue
        coupling = entropic.minimum_entropy_coupling(p, q, method="exact")
        assert coupling.verify()
        assert coupling.gap == 0
        assert coupling.entropy == pytest.approx(reference.exact(kp, kq), abs=1e-11)


@pytest.mark.parametrize("order", [0, 0.5, 2, 3.5])
def test_exact_for_other_costs(rng, order):
    def cost(mass):
        x = mass / GRID
        return 0.0 if mass == 0 else (x**order if order < 1 else -(x**order))

    for p, q in [(rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(4))), ([0.5, 0.3, 0.2], [0.8, 0.2])]:
        least = reference.exact(grid(p), grid(q), cost)
        tsallis = entropic.minimum_entropy_coupling(p, q, method="exact", order=order, tsallis=True)
        assert tsallis.entropy == pytest.approx((abs(least) - 1) / (1 - order), abs=1e-9)
        renyi = entropic.minimum_entropy_coupling(p, q, method="exact", order=order)
        assert renyi.entropy == pytest.approx(np.log2(abs(least)) / (1 - order), abs=1e-9)
        greedy = entropic.minimum_entropy_coupling(p, q, method="greedy", order=order)
        assert greedy.lower_bound <= renyi.entropy + 1e-9 <= greedy.entropy + 2e-9


def test_min_entropy_is_that_of_the_first_cell(rng):
    p, q = rng.dirichlet(np.ones(9)), rng.dirichlet(np.ones(5))
    coupling = entropic.minimum_entropy_coupling(p, q, order=np.inf)
    assert coupling.entropy == pytest.approx(-np.log2(min(p.max(), q.max())), rel=1e-12)
    assert coupling.gap < 1e-12


BOUNDS = {
    "majorization": reference.majorization,
    "profile": reference.profile,
    "majorize-profile": lambda *m: reference.entropy(reference.majorize_profile(*m), GRID),
    "atom-split": lambda *m: reference.entropy(reference.atom_split(*m), GRID),
}


@pytest.mark.parametrize("method", BOUNDS)
def test_bounds_are_their_definitions(rng, method):
    three = tuple(rng.dirichlet(np.ones(5)) for _ in range(3))
    cases = [*families(rng, 6, 9), three, (np.array([0.4, 0.6]),)]
    for marginals in cases:
        got = entropic.coupling_lower_bound(*marginals, method=method)
        want = BOUNDS[method](*map(grid, marginals))
        assert got <= want * (1 + 1e-15) + 1e-16
        assert got == pytest.approx(want, rel=1e-13, abs=1e-13)


def test_sandwich(rng):
    """Each bound at most the next, the best at most the optimum, and greedy within its guarantee of the profile."""
    for _ in range(300):
        p = rng.dirichlet(np.full(int(rng.integers(1, 6)), rng.choice([0.2, 1, 10])))
        q = rng.dirichlet(np.full(int(rng.integers(1, 5)), rng.choice([0.2, 1, 10])))
        bounds = [entropic.coupling_lower_bound(p, q, method=name) for name in BOUNDS]
        best, portfolio, greedy = (
            entropic.minimum_entropy_coupling(p, q, method=name).entropy for name in ("exact", "portfolio", "greedy")
        )
        assert max(bounds[:2]) <= bounds[2] + 1e-12
        assert bounds[2] <= bounds[3] + 1e-12
        assert bounds[3] <= best <= portfolio + 1e-12
        assert portfolio <= greedy <= bounds[1] + 0.5307


# ---- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_permuted_marginals_are_coupled_one_to_one(rng, method):
    p = rng.dirichlet(np.ones(9))
    order = rng.permutation(9)
    coupling = entropic.minimum_entropy_coupling(p, p[order], method=method)
    assert len(coupling.mass) == 9
    assert coupling.entropy == pytest.approx(coupling.mutual_information, rel=1e-14)
    assert (order[coupling.indices[:, 1]] == coupling.indices[:, 0]).all()


def test_certain_variable(rng):
    p = rng.dirichlet(np.ones(20))
    coupling = entropic.minimum_entropy_coupling(p, [0.0, 1.0])
    assert coupling.entropy == pytest.approx(reference.entropy(grid(p), GRID), rel=1e-13)
    assert coupling.mutual_information == 0
    assert coupling.gap < 1e-13


@pytest.mark.parametrize(("n", "m"), [(2, 3), (3, 4), (3, 5), (6, 9), (12, 12), (700, 1000), (999, 1000)])
def test_uniform_marginals_follow_euclid(n, m):
    coupling = entropic.minimum_entropy_coupling(np.ones(n, int), np.ones(m, int), method="greedy")
    assert coupling.entropy == pytest.approx(reference.euclid_squares(n, m), rel=1e-13)
    if n + m <= 15:
        exact = entropic.minimum_entropy_coupling(np.ones(n, int), np.ones(m, int), method="exact")
        assert exact.entropy == pytest.approx(coupling.entropy, rel=1e-13)


def test_dyadic_masses_meet_the_bound(rng):
    for _ in range(50):
        sides = []
        for _ in range(2):
            parts = [1.0]
            for _ in range(int(rng.integers(1, 12))):
                part = parts.pop(int(rng.integers(len(parts))))
                parts += [part / 2, part / 2]
            sides.append(parts)
        coupling = entropic.minimum_entropy_coupling(*sides, method="greedy")
        assert coupling.entropy == pytest.approx(entropic.coupling_lower_bound(*sides, method="profile"), rel=1e-13)


@pytest.mark.parametrize("method", ["exact", "auto"])
def test_hidden_refinement_is_found(method):
    coupling = entropic.minimum_entropy_coupling([0.4, 0.3, 0.3], [0.6, 0.4], method=method)
    assert coupling.entropy == pytest.approx(1.570951, abs=1e-6)
    greedy = entropic.minimum_entropy_coupling([0.4, 0.3, 0.3], [0.6, 0.4], method="greedy")
    assert greedy.entropy == pytest.approx(1.846439, abs=1e-6)


# ---- marginals, determinism ------------------------------------------------------------------------------------------


def test_marginals_are_the_gridded_inputs_to_the_last_bit(rng):
    """Many instances of every kind and size up to 1e5."""
    sizes = [(int(rng.integers(1, 40)), int(rng.integers(1, 40))) for _ in range(40)] + [(3000, 50), (100000, 70000)]
    for n, m in sizes:
        for p, q in families(rng, n, m):
            for method in ("greedy", "portfolio")[: 1 if n > 1000 else 2]:
                coupling = entropic.minimum_entropy_coupling(p, q, method=method)
                for i, side in enumerate((p, q)):
                    want = np.array(grid(side), np.float64) / GRID
                    assert (coupling.marginal(i) == want).all()
                    assert np.abs(want - side / side.sum()).max() <= 2.0**-52
                assert float(np.sum(coupling.mass)) == 1.0


def test_ten_thousand_instances(rng):
    """Marginals to the last bit, greedy within its guarantee, portfolio never worse; zeros, ties and tiny masses."""
    for n, m in [(1, 6), (5, 5), (16, 9), (40, 64)]:
        p, q = rng.random((2500, n)), rng.dirichlet(np.full(m, 0.3), 2500) + 1e-300
        p[::2] = np.exp(-rng.exponential(20, (1250, n)))
        p[1::4] = rng.integers(1, 4, (625, n))
        q[::3] = np.where(rng.random(q[::3].shape) < 0.4, 0, q[::3])
        q[:, 0] += 0.1
        q[::5] = 1.0
        p, q = (x / x.sum(axis=1, keepdims=True) for x in (p, q))
        greedy, portfolio = (
            entropic.minimum_entropy_coupling_batch(p, q, method=name) for name in ("greedy", "portfolio")
        )
        assert (portfolio.entropy <= greedy.entropy).all()
        assert (greedy.gap <= 0.5307).all()
        for batch in (greedy, portfolio):
            counts = (np.asarray(batch.mass) * GRID).astype(np.int64)
            rows = np.arange(len(p))[:, None]
            for axis, side in enumerate((p, q)):
                sums = np.zeros(side.shape, np.int64)
                np.add.at(sums, (rows, batch.indices[:, :, axis]), counts)
                assert (sums == _core.coupling_grid(side)[0].astype(np.int64)).all()


def test_portfolio_is_never_worse_than_greedy(rng):
    for n, m in [(5, 5), (30, 10), (500, 400), (3000, 3000)]:
        for p, q in families(rng, n, m):
            greedy, portfolio = (
                entropic.minimum_entropy_coupling(p, q, method=name) for name in ("greedy", "portfolio")
            )
            assert portfolio.entropy <= greedy.entropy
            assert portfolio.lower_bound == greedy.lower_bound
            assert portfolio.verify()
            assert (np.diff(portfolio.mass) <= 0).all()


def test_same_bits_for_instruction_sets_and_threads(rng):
    p, q = rng.dirichlet(np.ones(40), 300), rng.dirichlet(np.ones(30), 300)
    before = _core.isa_active()
    answers = []
    try:
        for name in _core.isa_available():
            _core.force_isa(name)
            for threads in (1, 2, 3):
                with entropic.num_threads(threads):
                    batch = entropic.minimum_entropy_coupling_batch(p, q, method="portfolio")
                    greedy = entropic.minimum_entropy_coupling_batch(p, q)
                    one = entropic.minimum_entropy_coupling(p[0][:8], q[0][:7] / q[0][:7].sum() * p[0][:8].sum())
                    code = entropic.bottleneck_encoder(p[0], 2.0)
                    parts = [batch.indices, batch.mass, batch.entropy, batch.lower_bound, one.mass, one.entropy]
                    parts += [greedy.indices, greedy.mass, greedy.entropy]
                    answers.append(b"".join(np.asarray(x).tobytes() for x in [*parts, code.labels, code.information]))
    finally:
        _core.force_isa(before)
    assert len(set(answers)) == 1


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any),
    st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any),
)
@settings(deadline=None, max_examples=60)
def test_laws_of_counts(a, b):
    """Exact marginals, transposition, and the same answer for counts that are multiples."""
    for method in ("greedy", "portfolio"):
        coupling = entropic.minimum_entropy_coupling(a, b, method=method)
        assert coupling.verify()
        scale = coupling.total // sum(a)
        assert list(np.bincount(coupling.indices[:, 0], np.asarray(coupling.counts), len(a))) == [scale * x for x in a]
        assert entropic.minimum_entropy_coupling([7 * x for x in a], b, method=method).entropy == coupling.entropy
        assert coupling.entropy >= max(coupling.mutual_information, coupling.lower_bound) - 1e-12
    ours = entropic.minimum_entropy_coupling(a, b, method="greedy")
    other = entropic.minimum_entropy_coupling(b, a, method="greedy")
    assert list(ours.counts) == list(other.counts)
    assert (ours.indices == other.indices[:, ::-1]).all()


# ---- the object ------------------------------------------------------------------------------------------------------


def test_forms_of_a_coupling(rng):
    p, q = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(4))
    coupling = entropic.minimum_entropy_coupling(p, q)
    dense = coupling.toarray()
    assert (coupling.tocoo().toarray() == dense).all()
    np.testing.assert_allclose(coupling.conditional(0, 2), dense[2] / dense[2].sum(), rtol=1e-14)
    np.testing.assert_allclose(coupling.conditional(1, 3), dense[:, 3] / dense[:, 3].sum(), rtol=1e-14)
    assert coupling.mutual_information == pytest.approx(reference.mutual_information(dense), rel=1e-12)
    again = pickle.loads(pickle.dumps(coupling))
    assert again.verify()
    assert (again.mass == coupling.mass).all()
    three = entropic.minimum_entropy_coupling(p, q, [0.5, 0.5])
    assert three.toarray().shape == (6, 4, 2)
    assert three.conditional(2, 1).sum() == pytest.approx(1)
    with pytest.raises(ValueError, match=r"tocoo: only two variables make a matrix, this coupling has 3"):
        three.tocoo()


def test_samples_follow_the_masses():
    coupling = entropic.minimum_entropy_coupling([0.5, 0.3, 0.2], [0.6, 0.4])
    drawn = coupling.sample(200000, 7)
    table = np.zeros((3, 2))
    np.add.at(table, tuple(drawn.T), 1 / len(drawn))
    np.testing.assert_allclose(table, coupling.toarray(), atol=0.005)  # four standard deviations
    assert (drawn == coupling.sample(200000, 7)).all()
    assert coupling.sample(0, 0).shape == (0, 2)


def test_verify_notices():
    import dataclasses

    coupling = entropic.minimum_entropy_coupling([3, 2, 1], [4, 2])
    for change in (
        {"_counts": coupling._counts[::-1].copy()},
        {"_indices": coupling._indices[:, ::-1].copy()},
        {"entropy": coupling.entropy - 0.1},
        {"_counts": coupling._counts * np.uint64(2)},
    ):
        assert not dataclasses.replace(coupling, **change).verify()


def test_units():
    bits = entropic.minimum_entropy_coupling([1, 2, 3], [2, 2, 1])
    nats = entropic.minimum_entropy_coupling([1, 2, 3], [2, 2, 1], base=np.e)
    assert nats.entropy == pytest.approx(bits.entropy * np.log(2), rel=1e-14)
    assert nats.lower_bound == pytest.approx(bits.lower_bound * np.log(2), rel=1e-14)
    assert nats.mutual_information == pytest.approx(bits.mutual_information * np.log(2), rel=1e-13)


@pytest.mark.parametrize("kind", ["strided", "reversed", "readonly", "big-endian", "broadcast", "list"])
def test_any_array(rng, kind):
    base = rng.dirichlet(np.ones(12))
    p = {
        "strided": np.repeat(base, 2)[::2],
        "reversed": base[::-1].copy()[::-1],
        "readonly": base.copy(),
        "big-endian": base.astype(">f8"),
        "broadcast": np.broadcast_to(1 / 12, 12),
        "list": base.tolist(),
    }[kind]
    if kind == "readonly":
        p.setflags(write=False)
    q = [0.25, 0.75]
    got = entropic.minimum_entropy_coupling(p, q)
    want = entropic.minimum_entropy_coupling(np.array(p, np.float64), q)
    assert (got.mass == want.mass).all()


def test_float32_masses_stay_float32(rng):
    p = rng.dirichlet(np.ones(1000)).astype(np.float32)
    coupling = entropic.minimum_entropy_coupling(p, p[::-1])
    assert coupling.mass.dtype == coupling.marginal(0).dtype == coupling.toarray().dtype == np.float32
    assert coupling.verify()


def test_torch_in_torch_out(rng):
    torch = pytest.importorskip("torch")
    p = torch.tensor(rng.dirichlet(np.ones(5)))
    coupling = entropic.minimum_entropy_coupling(p, p)
    assert isinstance(coupling.mass, torch.Tensor)
    assert isinstance(coupling.marginal(0), torch.Tensor)


# ---- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n", "m"), [(6, 5), (1, 4), (7, 15), (48, 17), (3, 49)])
def test_a_batch_is_a_loop(rng, method, threads, n, m):
    if method == "exact" and n + m > 12:
        return
    p, q = rng.dirichlet(np.ones(n), 50), rng.dirichlet(np.ones(m), 50)
    p[::3, 4:] = 0
    q[::4] = rng.integers(1, 3, (13, m))
    p, q = (x / x.sum(axis=1, keepdims=True) for x in (p, q))
    batch = entropic.minimum_entropy_coupling_batch(p, q, method=method)
    assert len(batch) == 50
    for i in range(50):
        one = entropic.minimum_entropy_coupling(p[i], q[i], method=method)
        assert (batch[i].indices == one.indices).all()
        assert (batch[i].mass == one.mass).all()
        assert (batch.entropy[i], batch.lower_bound[i]) == (one.entropy, one.lower_bound)
        assert (batch.mass[i, batch.n_cells[i] :] == 0).all()
        assert batch[i].verify()


def test_an_empty_batch():
    batch = entropic.minimum_entropy_coupling_batch(np.zeros((0, 3)), np.zeros((0, 4)))
    assert len(batch) == 0
    assert batch.mass.shape == (0, 6)


# ---- the bottleneck --------------------------------------------------------------------------------------------------


def test_greedy_code_is_the_published_one(rng):
    for n in (1, 2, 3, 8, 40):
        for _ in range(20):
            counts = rng.integers(1, 1000, size=n)
            level = reference.entropy(counts.tolist(), int(counts.sum()))
            rate = float(rng.uniform(0, 1.1) * level)
            code = entropic.bottleneck_encoder(counts, rate, method="greedy")
            blocks = reference.ebim_greedy(counts.tolist(), rate)
            want = reference.block_entropy(counts.tolist(), blocks)
            assert code.information == pytest.approx(want, abs=1e-12)
            assert code.code_entropy <= rate


def test_codes_keep_the_rate_and_each_search_helps(rng):
    for n in (1, 2, 3, 6, 30, 500):
        for p in (rng.dirichlet(np.ones(n)), np.ones(n) / n, rng.dirichlet(np.full(n, 0.1))):
            level = entropic.minimum_entropy_coupling(p).entropy
            for rate in (0, 0.1, 0.5 * level, level * 0.999, level, level + 1):
                codes = [entropic.bottleneck_encoder(p, rate, method=name) for name in ("greedy", "pairs", "moves")]
                for code in codes:
                    joint = code.toarray()
                    information = reference.mutual_information(joint)
                    assert code.information == pytest.approx(information, abs=1e-9)
                    assert code.code_entropy <= rate
                    assert reference.entropy(code._code().tolist(), GRID) <= rate * (1 + 1e-15) + 1e-15
                    assert (joint.sum(axis=1) == np.array(grid(p)) / GRID).all()
                    assert (code.tocoo().toarray() == joint).all()
                    assert code.information <= code.bound + 1e-12
                assert codes[0].information <= codes[1].information <= codes[2].information


def test_codes_of_three_masses_are_the_best_maps():
    """The envelope of the published example; the values are those of a scan over all maps."""
    for rate, best in [(0.3, 0.200303), (0.5, 0.476066), (0.9, 0.884789), (1.1, 1.029664)]:
        assert entropic.bottleneck_encoder([0.7, 0.2, 0.1], rate).information == pytest.approx(best, abs=1e-5)


def test_codes_against_all_partitions(rng):
    for _ in range(10):
        counts = rng.integers(1, 100, size=6)
        rate = float(rng.uniform(0.2, 2))
        blocks = reference.best_partition(counts.tolist(), rate)
        best = reference.block_entropy(counts.tolist(), blocks)
        pairs = entropic.bottleneck_encoder(counts, rate, method="pairs")
        assert pairs.information <= best + 1e-12


def test_coupling_through_a_code(rng):
    for n, m in [(1, 1), (5, 4), (30, 20)]:
        p, q = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
        for rate in (0.0, 0.7, 1.5, 20.0):
            result = entropic.bottleneck_coupling(p, q, rate)
            joint = result.toarray()
            np.testing.assert_allclose(joint.sum(axis=1), p, atol=1e-15)
            np.testing.assert_allclose(joint.sum(axis=0), q, atol=1e-15)
            want = reference.composed(result.encoder.toarray(), result.decoder.toarray())
            np.testing.assert_allclose(joint, want, atol=1e-15)
            assert result.information == pytest.approx(reference.mutual_information(joint), abs=1e-9)
            assert result.information <= result.bound + 1e-12
            assert result.encoder.code_entropy <= rate
    free = entropic.minimum_entropy_coupling(p, q)
    assert result.information == pytest.approx(free.mutual_information, abs=1e-9)
    independent = entropic.bottleneck_coupling(p, q, 0.0).toarray()
    np.testing.assert_allclose(independent, np.outer(p, q), atol=1e-15)


def test_rate_curve(rng):
    p, q = rng.dirichlet(np.ones(20)), rng.dirichlet(np.ones(10))
    for other in (None, q):
        curve = entropic.bottleneck_curve(p, other, rates=12)
        assert (np.diff(curve.information) >= 0).all()
        assert (curve.information <= curve.bound + 1e-12).all()
        assert curve.information[0] == pytest.approx(0, abs=1e-12)


# ---- causal direction ------------------------------------------------------------------------------------------------


def test_exogenous_entropy_is_that_of_the_coupled_rows(rng):
    table = rng.dirichlet(np.ones(7), 5)
    want = entropic.minimum_entropy_coupling(*table, method="greedy").entropy
    assert entropic.exogenous_entropy(table) == want
    assert entropic.exogenous_entropy(np.eye(4)) == 0


def test_direction_of_a_simple_mechanism(rng):
    """Y = f(X, E) with E of two equally likely values: the published example."""
    right = 0
    for _ in range(20):
        x = rng.dirichlet(np.ones(30))
        maps = rng.integers(0, 30, size=(30, 2))
        joint = np.zeros((30, 30))
        for e in range(2):
            np.add.at(joint, (np.arange(30), maps[:, e]), x / 2)
        result = entropic.entropic_direction(joint)
        assert result.forward <= entropic.minimum_entropy_coupling(x).entropy + 1 + 1e-9
        back = entropic.entropic_direction(joint.T)
        assert (back.forward, back.backward) == (result.backward, result.forward)
        right += result.direction == "x->y"
    assert right >= 19


def test_a_symmetric_table_is_undecided():
    assert entropic.entropic_direction([[2, 1], [1, 2]]).direction == "undecided"
    assert entropic.entropic_direction([[5, 3]]).margin == pytest.approx(0, abs=1e-12)


# ---- bad input -------------------------------------------------------------------------------------------------------

F = "minimum_entropy_coupling: "


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: entropic.minimum_entropy_coupling(), ValueError, F + "needs at least one marginal, got none"),
        (
            lambda: entropic.minimum_entropy_coupling([0.5, -0.5], [1.0]),
            ValueError,
            F + "`marginals[0]` must hold finite masses that are not negative, got -0.5 at 1",
        ),
        (
            lambda: entropic.minimum_entropy_coupling([1.0], [0.5, np.nan]),
            ValueError,
            F + "`marginals[1]` must hold finite masses that are not negative, got nan at 1",
        ),
        (
            lambda: entropic.minimum_entropy_coupling([np.inf], [1.0]),
            ValueError,
            F + "`marginals[0]` must hold finite masses that are not negative, got inf at 0",
        ),
        (
            lambda: entropic.minimum_entropy_coupling([], [1.0]),
            ValueError,
            F + "`marginals[0]` must be one-dimensional and not empty, got shape (0,)",
        ),
        (
            lambda: entropic.minimum_entropy_coupling([0.5, 0.49], [1.0]),
            ValueError,
            F + "`marginals[0]` sums to 0.99, `marginals[1]` to 1.0; scale them to one total",
        ),
        (lambda: entropic.minimum_entropy_coupling([0.0], [1.0]), ValueError, F + "`marginals[0]` has no mass"),
        (lambda: entropic.minimum_entropy_coupling([0, 0], [1]), ValueError, F + "`marginals[0]` has no mass"),
        (
            lambda: entropic.minimum_entropy_coupling([3, -1], [1]),
            ValueError,
            F + "`marginals[0]` must hold counts that are not negative, got -1 at 1",
        ),
        (
            lambda: entropic.minimum_entropy_coupling([2**40 + 1], [2**40 - 1, 2]),
            None,
            "",
        ),
        (
            lambda: entropic.minimum_entropy_coupling([2**62, 1], [2**61]),
            ValueError,
            "which must be below 2**63; divide each by its total",
        ),
        (
            lambda: entropic.minimum_entropy_coupling(np.ones(12), np.ones(12), method="exact"),
            ValueError,
            F + "method 'exact' takes at most 22 positive masses in both marginals together, got 24",
        ),
        (
            lambda: entropic.minimum_entropy_coupling([1.0], [1.0], [1.0], method="exact"),
            ValueError,
            F + "method 'exact' is for two marginals, got 3",
        ),
        (
            lambda: entropic.minimum_entropy_coupling([1.0], [1.0], method="best"),
            ValueError,
            F + "`method` must be one of 'greedy', 'portfolio', 'exact', 'auto', got 'best'",
        ),
        (lambda: entropic.minimum_entropy_coupling([1j], [1.0]), TypeError, F + "`marginals[0]` must be real"),
        (lambda: entropic.minimum_entropy_coupling([1.0], order=-1), ValueError, F + "`order` must be 1, or not"),
        (lambda: entropic.minimum_entropy_coupling([1.0], base=1), ValueError, F + "`base` must be positive"),
        (
            lambda: entropic.minimum_entropy_coupling_batch([[1.0], [0.5]], [[1.0], [1.0]]),
            ValueError,
            "minimum_entropy_coupling_batch: row 1 of `p` sums to 0.5, row 1 of `q` to 1.0; scale them to one total",
        ),
        (
            lambda: entropic.minimum_entropy_coupling_batch([[1.0, -1]] * 3, [[1.0]] * 3),
            ValueError,
            "minimum_entropy_coupling_batch: row 0 of `p` must hold finite masses that are not negative, got -1.0 at 1",
        ),
        (
            lambda: entropic.bottleneck_encoder([1.0], -0.5),
            ValueError,
            "bottleneck_encoder: `rate` must not be negative, got -0.5",
        ),
        (
            lambda: entropic.bottleneck_encoder([1.0], float("nan")),
            ValueError,
            "bottleneck_encoder: `rate` must not be negative, got nan",
        ),
        (
            lambda: entropic.entropic_direction([1.0, 2.0]),
            ValueError,
            "entropic_direction: `joint` must have shape (n_x, n_y), got (2,)",
        ),
    ],
)
def test_bad_input(call, error, message):
    if error is None:
        assert call().verify()
        return
    with pytest.raises(error) as raised:
        call()
    assert message in str(raised.value)


def test_sums_to_rounding_are_accepted():
    p = np.full(10, 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coupling = entropic.minimum_entropy_coupling(p, np.ones(1) * (1 + 1e-10))
    assert coupling.grid_error <= 2.0**-53
    assert coupling.verify()


def test_sums_beyond_floating_point():
    """Finite masses whose sum is not: compared, not let through, and without a warning."""
    p = np.array([1e308, 1e308])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert entropic.minimum_entropy_coupling(p, p).entropy == 1
        assert entropic.minimum_entropy_coupling_batch(p[None], p[None]).entropy[0] == pytest.approx(1)
        with pytest.raises(ValueError, match=r"`marginals\[1\] / 2\*\*64` to 1\.6"):
            entropic.minimum_entropy_coupling(p, 1.5 * p)


def test_counts_are_divided_as_finely_as_floats():
    """A small total does not make a code coarse."""
    for p in ([1, 1, 1], [True, True], [5, 2, 1]):
        for rate in (0.1, 0.5, 0.9):
            counts = entropic.bottleneck_encoder(p, rate)
            floats = entropic.bottleneck_encoder(np.asarray(p, np.float64), rate)
            assert counts.information == pytest.approx(floats.information, abs=1e-12)
            assert counts.information > 0
        pair = entropic.bottleneck_coupling(p, p, 0.5)
        assert pair.information == pytest.approx(
            entropic.bottleneck_coupling(np.asarray(p, float), np.asarray(p, float), 0.5).information, abs=1e-9
        )


def test_a_batch_is_indexed_by_integers():
    batch = entropic.minimum_entropy_coupling_batch([[0.5, 0.5]], [[1.0, 0.0]])
    with pytest.raises(TypeError, match="slice"):
        batch[0:1]


def test_torch_results_may_be_written():
    """torch has no read-only arrays: what it gets is its own."""
    torch = pytest.importorskip("torch")
    coupling = entropic.minimum_entropy_coupling(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coupling.indices[:] = 1
    assert coupling.verify()
    assert torch.equal(coupling.toarray(), torch.tensor([[0.5, 0.0], [0.0, 0.5]]))


def test_dense_product_too_large():
    coupling = entropic.minimum_entropy_coupling(*[np.ones(2)] * 70, method="greedy")
    with pytest.raises(MemoryError, match="toarray: a dense array"):
        coupling.toarray()


# ---- edges of the host -----------------------------------------------------------------------------------------------


def test_interrupted_coupling():
    """Ctrl-C stops the exact solver, which takes most of a minute here, and the next call works."""
    code = """
import _thread, threading, time, numpy as np, entropic
rng = np.random.default_rng(0)
p, q = rng.dirichlet(np.ones(11)), rng.dirichlet(np.ones(11))
threading.Timer(0.3, _thread.interrupt_main).start()
start = time.perf_counter()
try:
    entropic.minimum_entropy_coupling(p, q, method="exact")
    print("finished")
except KeyboardInterrupt:
    print("stopped", time.perf_counter() - start < 10, entropic.minimum_entropy_coupling(p, q, method="greedy").verify())
"""
    assert run_python(code).stdout.split() == ["stopped", "True", "True"]


# ---- messages in sequences -------------------------------------------------------------------------------------------


def sequences(nu, prefix=()):
    """All whole sequences."""
    q = nu(prefix)
    if q is None:
        return [prefix]
    return [y for symbol, mass in enumerate(q) if mass for y in sequences(nu, (*prefix, symbol))]


def random_source(rng, length, alphabet):
    """Masses of every prefix, some of them zero, as floats that end at random lengths."""
    table = {}

    def nu(prefix):
        if prefix not in table:
            q = rng.dirichlet(np.full(alphabet, 0.7)) * (rng.random(alphabet) < 0.8)
            q = q if q.any() else np.eye(alphabet)[0]
            table[prefix] = None if len(prefix) >= length or (prefix and rng.random() < 0.1) else q / q.sum()
        return table[prefix]

    return nu


@pytest.mark.parametrize(
    ("sizes", "length", "alphabet"), [((4,), 3, 3), ((3, 2), 3, 4), ((2, 2, 2), 4, 2), ((1,), 2, 3)]
)
def test_iterative_coupling_is_its_definition(rng, sizes, length, alphabet):
    """Against the algorithm in fractions, and the laws of a coupling."""
    nu = random_source(rng, length, alphabet)
    parts = [rng.dirichlet(np.ones(n)) for n in sizes]
    coupling = entropic.IterativeCoupling(parts, nu)
    exact = reference.iterative(
        [[Fraction(k, GRID) for k in grid(p)] for p in parts],
        lambda prefix: None if nu(prefix) is None else [Fraction(k, GRID) for k in grid(nu(prefix))],
    )
    ys, xs = sequences(nu), list(np.ndindex(*sizes))
    joint = np.array([[2.0 ** coupling.log_likelihood(x, y) for y in ys] for x in xs])
    want = np.array([[float(exact[x, y]) for y in ys] for x in xs])
    np.testing.assert_allclose(joint, want, rtol=1e-10, atol=1e-15)
    mu = [np.prod([p[i] for p, i in zip(parts, x, strict=True)]) for x in xs]
    np.testing.assert_allclose(joint.sum(axis=1), mu, rtol=1e-13)
    chances = [np.prod([nu(y[:t])[y[t]] for t in range(len(y))]) for y in ys]
    np.testing.assert_allclose(joint.sum(axis=0), chances, rtol=1e-12)
    for column, y in zip(joint.T, ys, strict=True):
        posterior = functools.reduce(np.multiply.outer, coupling.posterior(y))
        np.testing.assert_allclose(posterior.ravel(), column / column.sum(), rtol=1e-10, atol=1e-13)
        assert np.isclose(posterior[coupling.decode(y)], posterior.max(), rtol=1e-12)
    information = reference.mutual_information(joint)
    assert information <= min(reference.mutual_information(np.diag(side)) for side in (mu, chances)) + 1e-12


def test_one_part_is_the_table(rng):
    nu, p = random_source(rng, 3, 4), rng.dirichlet(np.ones(5))
    one, several = entropic.IterativeCoupling(p, nu), entropic.IterativeCoupling([p], nu)
    for seed in range(20):
        x, y = one.sample(seed)
        assert several.sample(seed) == ((x,), y)
        assert (several.posterior(y)[0] == one.posterior(y)).all()


def test_messages_come_back(rng):
    """Ten bytes in words of 1000: nothing is misread, and words follow their distribution whatever the message."""
    words = rng.dirichlet(np.full(1000, 0.1))
    coupling = entropic.IterativeCoupling(
        np.full((10, 256), 1 / 256), lambda prefix: np.roll(words, len(prefix)) if len(prefix) < 40 else None
    )
    firsts = []
    for seed in range(150):
        x, y = coupling.sample(seed)
        assert coupling.decode(y) == x
        assert coupling.encode(x, rng=seed) == coupling.encode(x, rng=seed)
        firsts.append(y[0])
    expected = np.array([words[:10].sum(), 1 - words[:10].sum()]) * len(firsts)
    seen = np.bincount(np.array(firsts) >= 10, minlength=2)
    assert ((seen - expected) ** 2 / expected).sum() < 15


def test_encoding_follows_the_conditional(rng):
    nu, p = random_source(rng, 2, 3), [0.5, 0.3, 0.2]
    coupling = entropic.IterativeCoupling(p, nu)
    generator = np.random.default_rng(5)
    drawn = Counter(coupling.encode(1, generator) for _ in range(4000))
    for y in sequences(nu):
        chance = 2.0 ** coupling.log_likelihood(1, y) / 0.3
        assert abs(drawn[y] - 4000 * chance) < 5 * np.sqrt(4000 * chance * max(0.0, 1 - chance)) + 1e-6


def test_iterative_coupling_refuses():
    def nu(prefix):
        return [0.5, 0.5, 0.0] if len(prefix) < 2 else None

    coupling = entropic.IterativeCoupling([0.5, 0.5, 0.0], nu)
    assert coupling.log_likelihood(2, (0, 0)) == -np.inf
    assert coupling.log_likelihood(0, (2, 0)) == -np.inf
    assert coupling.log_likelihood(0, (), base=None) == pytest.approx(np.log(0.5))
    with pytest.raises(ValueError, match=r"encode: `x` has no mass at 2"):
        coupling.encode(2)
    with pytest.raises(ValueError, match=r"encode: `x` must be in \[0, 3\), got 3"):
        coupling.encode(3)
    with pytest.raises(ValueError, match=r"decode: symbol 2 at 1 has no mass"):
        coupling.decode((0, 2))
    with pytest.raises(ValueError, match=r"posterior: the sequence ends after 2 symbols, got 3"):
        coupling.posterior((0, 1, 0))
    with pytest.raises(TypeError, match=r"decode: `y` must be a sequence of integers"):
        coupling.decode(1.5)
    with pytest.raises(TypeError, match=r"IterativeCoupling: `nu` must be callable"):
        entropic.IterativeCoupling([1.0], [1.0])
    with pytest.raises(ValueError, match=r"IterativeCoupling: `mu` must be one distribution or several"):
        entropic.IterativeCoupling(np.ones((2, 2, 2)), nu)
    with pytest.raises(ValueError, match=r"`nu\(prefix\)` must hold finite masses"):
        entropic.IterativeCoupling([0.5, 0.5], lambda prefix: [np.nan, 1.0]).encode(0)
    with pytest.raises(ValueError, match=r"encode: `x` must have 2 parts, got 1"):
        entropic.IterativeCoupling([[0.5, 0.5], [1.0]], nu).encode((0,))
