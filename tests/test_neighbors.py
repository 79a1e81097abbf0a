"""Nearest-neighbour searches and estimators against all pairs, closed forms, laws, peers' defects and edges."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_python
from reference import neighbors as reference
from reference.logits import finite_difference
from scipy import special, stats

import entropic
from entropic import TiesWarning, _core
from entropic.neighbors._information import _log_box_ratio
from entropic.neighbors._ties import digamma

METRICS = ("euclidean", "manhattan", "chebyshev")


def gaussians(rng, n, rho, d=1):
    x = rng.normal(size=(n, d))
    return x, rho * x + math.sqrt(1 - rho**2) * rng.normal(size=(n, d))


# ---- searches --------------------------------------------------------------------------------------------------------


def adversaries(rng, n, d):
    """Points of the kinds on which counts go wrong."""
    kind = rng.integers(9)
    x = rng.normal(size=(n, d))
    if kind == 1:
        x = rng.integers(-3, 4, size=(n, d)).astype(float)
    elif kind == 2:
        x = x[rng.integers(0, max(1, n // 3), size=n)]  # duplicates
    elif kind == 3:
        x = np.stack(np.meshgrid(*[np.arange(math.ceil(n ** (1 / d)))] * d), -1).reshape(-1, d)[:n] * 0.1  # a grid
    elif kind == 4:
        x[rng.integers(n)] *= 1e9  # one outlier
    elif kind == 5:
        x = x * 1e12 + 1e12
    elif kind == 6:
        x = x * 1e-12
    elif kind == 7:
        x = x + 1e8  # few digits are left
    elif kind == 8:
        x = np.repeat(x[:1], n, axis=0)
    return np.ascontiguousarray(x, dtype=float)


def check_search(x, y, k, metric):
    """Distances, numbers and counts against all pairs, exactly."""
    far = reference.others(x, metric) if y is None else reference.distances(x, y, metric)
    distances, numbers = entropic.nearest_neighbors(x, y, k=k, metric=metric)
    np.testing.assert_array_equal(distances, np.sort(far, axis=1)[:, :k])
    np.testing.assert_array_equal(np.take_along_axis(far, numbers, axis=1), distances)
    assert all(len(set(row)) == k for row in numbers.tolist())
    for radii in (
        distances[:, -1],
        np.nextafter(distances[:, -1], np.inf),
        np.full(len(x), np.median(far[np.isfinite(far)])),
    ):
        for strict in (True, False):
            counts = entropic.count_within(x, radii, y, metric=metric, strict=strict)
            np.testing.assert_array_equal(counts, reference.within(far, radii, strict))


@pytest.mark.parametrize("block", range(10))
def test_counts_and_neighbours_are_those_of_all_pairs(block):
    """1000 random and adversarial sets."""
    rng = np.random.default_rng(block)
    for _ in range(100):
        n, d = int(rng.integers(2, 300)), int(rng.choice([1, 1, 2, 2, 3, 4, 6, 13, 20]))
        x = adversaries(rng, n, d)
        y = None if rng.random() < 0.6 else adversaries(rng, int(rng.integers(1, 200)), d)
        most = len(x) - 1 if y is None else len(y)
        check_search(x, y, int(rng.integers(1, min(most, 12) + 1)), str(rng.choice(METRICS)))


@pytest.mark.parametrize("d", [2, 5, 13])
@pytest.mark.parametrize("scale", [1e-310, 1e-170, 1e300, 1e200])
def test_squares_that_leave_the_range(rng, scale, d):
    """Subnormal points, huge ones, one outlier beside which all others are one, and queries that are far away."""
    x = rng.normal(size=(70, d))
    x = np.vstack([x, np.full((1, d), scale)]) if scale == 1e200 else x * scale
    queries = np.vstack([rng.normal(size=(5, d)), x[:3], np.zeros((1, d))])
    for q in (None, queries):
        wide = (x if q is None else q).astype(np.longdouble)
        far = np.sqrt(((wide[:, None] - x) ** 2).sum(axis=-1))
        if q is None:
            np.fill_diagonal(far, np.inf)
        distances, numbers = entropic.nearest_neighbors(x, k=4) if q is None else entropic.nearest_neighbors(q, x, k=4)
        exact = np.sort(far, axis=1)[:, :4]
        assert (np.abs(distances - exact) <= 1e-14 * exact + 1e-323).all()
        found = np.take_along_axis(far, numbers, axis=1)
        assert (np.abs(found - exact) <= 1e-14 * exact + 1e-323).all()
        for strict in (True, False):
            radii = distances[:, -1]
            counts = entropic.count_within(x if q is None else q, radii, None if q is None else x, strict=strict)
            assert (counts < 4).all() if strict else (counts >= 4).all()


@pytest.mark.parametrize("d", [1, 2, 3, 4, 12, 13])
def test_every_instruction_set_and_thread_count(rng, isa, threads, d):
    x, y = rng.normal(size=(2000, d)), rng.normal(size=(700, d)).round(1)
    for metric in METRICS:
        check_search(x, None, 4, metric)
        check_search(y, x, 9, metric)


def test_the_same_bits_everywhere(rng):
    """Neither the instruction set nor the threads change a distance, a number or a count."""
    before = _core.isa_active()
    answers = []
    sets = [(rng.normal(size=(5000, d)), rng.integers(0, 9, (5000, d)).astype(float)) for d in (1, 2, 3, 7, 30)]
    try:
        for name in _core.isa_available():
            for threads in (1, 2, 3):
                _core.force_isa(name)
                with entropic.num_threads(threads):
                    found = [entropic.nearest_neighbors(x, k=5) for pair in sets for x in pair]
                answers.append(found)
    finally:
        _core.force_isa(before)
    for other in answers[1:]:
        for (d0, i0), (d1, i1) in zip(answers[0], other, strict=True):
            np.testing.assert_array_equal(d0, d1)
            np.testing.assert_array_equal(i0, i1)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e300])
@pytest.mark.parametrize("d", [2, 5, 20])
def test_squares_out_of_range(rng, scale, d):
    """Distances of float64 need no squares that float64 can hold."""
    x = rng.normal(size=(300, d))
    power = 2.0 ** np.round(np.log2(scale))
    distances, numbers = entropic.nearest_neighbors(x, k=4)
    far, scaled = entropic.nearest_neighbors(x * power, k=4)
    np.testing.assert_array_equal(scaled, numbers)
    np.testing.assert_allclose(far / power, distances, rtol=1e-15)
    np.testing.assert_array_equal(entropic.count_within(x * power, far[:, -1]), np.full(300, 4))


def test_queries_beyond_the_range_of_the_filter(rng):
    x = rng.normal(size=(200, 6))
    for far in (1e30, 1e60, 1e150):
        check_search(x[:5] * far, x, 3, "chebyshev")
        check_search(x[:5] * far, x, 3, "manhattan")
    check_search(x[:5] * 1e60, x, 3, "euclidean")


def test_all_but_one_are_neighbours(rng):
    for d in (1, 2, 3, 5, 20):
        x = rng.normal(size=(100, d))
        check_search(x, None, 99, "euclidean")
        check_search(x[:1], x, 100, "manhattan")


def test_counts_at_radius_zero_and_infinity(rng):
    for d in (1, 2, 5, 20):
        x = rng.integers(0, 2, size=(50, d)).astype(float)
        same = (reference.others(x) == 0).sum(axis=1)
        np.testing.assert_array_equal(entropic.count_within(x, 0.0), same)
        np.testing.assert_array_equal(entropic.count_within(x, 0.0, strict=True), 0)
        np.testing.assert_array_equal(entropic.count_within(x, np.inf), 49)
        np.testing.assert_array_equal(entropic.count_within(x, np.inf, x), 50)


def test_arrays_of_every_kind(rng):
    x = rng.normal(size=(60, 4))
    wanted = entropic.nearest_neighbors(x[::-2, 1:], k=3)
    kept = np.array(x[::-2, 1:])
    read_only = kept.copy()
    read_only.setflags(write=False)
    for same in (kept, np.asfortranarray(kept), kept.astype(">f8"), kept.tolist(), read_only):
        for a, b in zip(entropic.nearest_neighbors(same, k=3), wanted, strict=True):
            np.testing.assert_array_equal(a, b)
    narrow = x.astype(np.float32)
    distances, _ = entropic.nearest_neighbors(narrow, k=3)
    assert distances.dtype == np.float64
    np.testing.assert_array_equal(distances, entropic.nearest_neighbors(narrow.astype(float), k=3)[0])
    assert entropic.nearest_neighbors(np.arange(9), k=1)[0].tolist() == [[1.0]] * 9


def test_other_libraries(rng):
    torch = pytest.importorskip("torch")
    x = rng.normal(size=(60, 3))
    distances, numbers = entropic.nearest_neighbors(torch.from_numpy(x), k=3)
    assert isinstance(distances, torch.Tensor)
    np.testing.assert_array_equal(distances.numpy(), entropic.nearest_neighbors(x, k=3)[0])
    assert numbers.dtype == torch.int64
    assert entropic.knn_entropy(torch.from_numpy(x)) == entropic.knn_entropy(x)


def test_no_queries(rng):
    x = rng.normal(size=(5, 2))
    distances, numbers = entropic.nearest_neighbors(np.empty((0, 2)), x, k=2)
    assert distances.shape == numbers.shape == (0, 2)
    assert entropic.count_within(np.empty((0, 2)), 1.0, x).shape == (0,)


def test_memory_is_linear():
    """30,000 points: all pairs would take 7 GB."""
    code = """
import resource, numpy as np, entropic
x = np.random.default_rng(0).normal(size=(30000, 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
entropic.nearest_neighbors(x[:, :13], k=3)
entropic.knn_mutual_information(x[:, :1], x[:, 1:3])
entropic.knn_entropy(x[:, :5])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    assert float(run_python(code).stdout) < 60


# ---- entropies -------------------------------------------------------------------------------------------------------


def test_digamma():
    n = np.concatenate([np.arange(1, 3000), 10 ** np.arange(4, 10)])
    np.testing.assert_allclose(digamma(n), special.digamma(n), rtol=4e-16, atol=2e-16)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [1, 2, 3, 5, 14])
def test_entropy_is_the_formula(rng, metric, d):
    x = rng.normal(size=(150, d))
    profile = entropic.knn_entropy(x, k=[1, 3, 7], metric=metric)
    for k, value in zip((1, 3, 7), profile, strict=True):
        assert value == pytest.approx(reference.entropy(x, k, metric), abs=1e-12)
        assert value == entropic.knn_entropy(x, k=k, metric=metric)
        for q in (0.0, 0.5, 1.5, k + 0.5):
            integral = reference.power_entropy(x, k, q, metric)
            renyi = entropic.knn_entropy(x, k=k, metric=metric, order=q)
            assert renyi == pytest.approx(math.log(integral) / (1 - q), rel=1e-10, abs=1e-11)
            tsallis = entropic.knn_entropy(x, k=k, metric=metric, order=q, tsallis=True)
            assert tsallis == pytest.approx((1 - integral) / (q - 1), rel=1e-10)
    assert entropic.knn_entropy(x, base=2, metric=metric) == pytest.approx(
        reference.entropy(x, 3, metric) / math.log(2), abs=1e-12
    )


def test_entropy_of_a_uniform_torus_is_unbiased():
    """E = 0 at every n and k: the mass of the ball up to a neighbour is a Beta variable."""
    rng = np.random.default_rng(5)
    for n, k in ((10, 1), (10, 3), (40, 2)):
        values = []
        for _ in range(1500):
            x = rng.random(n)
            circle = np.concatenate([x - 1, x, x + 1])  # neighbours across the seam
            far = entropic.nearest_neighbors(x, circle, k=k + 1)[0][:, -1]
            values.append(special.digamma(n) - special.digamma(k) + math.log(2) + np.log(far).mean())
        assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values))


ORACLES = {
    "normal": (lambda r, n, d: r.normal(size=(n, d)), lambda d: d / 2 * math.log(2 * math.pi * math.e)),
    "exponential": (lambda r, n, d: r.exponential(size=(n, d)), lambda d: float(d)),
    "student": (
        lambda r, n, d: r.normal(size=(n, d)) / np.sqrt(r.chisquare(5, size=(n, 1)) / 5),
        lambda d: (
            -special.gammaln((5 + d) / 2) + special.gammaln(2.5) + d / 2 * math.log(5 * math.pi)
            + (5 + d) / 2 * (special.digamma((5 + d) / 2) - special.digamma(2.5))
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize(("d", "bias"), [(1, 0.01), (2, 0.03)])
def test_entropy_of_known_densities(name, d, bias):
    sample, truth = ORACLES[name]
    rng = np.random.default_rng(1)
    values = [entropic.knn_entropy(sample(rng, 2000, d), k=4) for _ in range(40)]
    assert abs(np.mean(values) - truth(d)) < bias + 4 * np.std(values) / math.sqrt(40)


def test_renyi_entropy_of_a_gaussian():
    rng = np.random.default_rng(2)
    for q, bias in ((0.7, 0.05), (2.0, 0.02)):  # below 1 the tails weigh more
        truth = math.log(2 * math.pi) + math.log(q) / (q - 1)
        values = [entropic.knn_entropy(rng.normal(size=(3000, 2)), order=q, k=4) for _ in range(30)]
        assert abs(np.mean(values) - truth) < bias + 4 * np.std(values) / math.sqrt(30)


def test_entropy_of_a_known_support(rng):
    x = rng.random((300, 3))
    assert entropic.knn_entropy(x, support=(0, 1)) == pytest.approx(reference.truncated_entropy(x, 3, 0, 1), abs=1e-12)
    sides = np.array([0, -1, 0]), np.array([1, 1, 2])
    got = entropic.knn_entropy(x, k=5, support=sides)
    assert got == pytest.approx(reference.truncated_entropy(x, 5, *sides), abs=1e-12)
    cut = [entropic.knn_entropy(rng.random((500, 3)), support=(0, 1)) for _ in range(60)]
    plain = [entropic.knn_entropy(rng.random((500, 3))) for _ in range(60)]
    # free of bias where the density is uniform up to the border
    assert abs(np.mean(cut)) < 4 * np.std(cut) / math.sqrt(60)
    assert np.mean(plain) > 0.1
    # a border far from zero: nothing cancels
    assert entropic.knn_entropy(x + 1e9, support=(1e9, 1e9 + 1)) == pytest.approx(
        reference.truncated_entropy((x + 1e9) - 1e9, 3, 0, 1), abs=1e-6
    )


@pytest.mark.parametrize("d", [2, 4, 8, 13])
def test_weights_cancel_the_bias(rng, d):
    from entropic.neighbors._entropy import entropy_weights

    k = 12
    w = entropy_weights("f", k, d)
    assert w.sum() == pytest.approx(1, abs=1e-12)
    j = np.arange(1, k + 1)
    for power in range(1, d // 4 + 1):
        growth = np.exp(special.gammaln(j + 2 * power / d) - special.gammaln(j))
        assert w @ growth == pytest.approx(0, abs=1e-9 * growth.max())
    # the least norm: orthogonal to what the constraints leave free
    rows = [np.ones(k)] + [np.exp(special.gammaln(j + 2 * p / d) - special.gammaln(j)) for p in range(1, d // 4 + 1)]
    if d >= 4:
        _, _, rest = np.linalg.svd(np.array(rows))
        np.testing.assert_allclose(rest[len(rows) :] @ w, 0, atol=1e-9)
    else:
        np.testing.assert_array_equal(w, np.eye(k)[-1])
    x = rng.normal(size=(200, d))
    orders = [reference.entropy(x, int(i), "euclidean") for i in j]
    assert entropic.knn_entropy(x, k=k, weighted=True, metric="euclidean") == pytest.approx(w @ orders, abs=1e-9)


def test_confidence_interval_covers():
    rng = np.random.default_rng(3)
    truth, covered = 0.5 * math.log(2 * math.pi * math.e), 0
    for _ in range(200):
        estimate = entropic.knn_entropy(rng.normal(size=500), k=5, confidence=0.9)
        covered += estimate.low <= truth <= estimate.high
        assert estimate.low < estimate.value < estimate.high
    assert 0.80 <= covered / 200 <= 0.97
    x = rng.normal(size=400)
    estimate = entropic.knn_entropy(x, confidence=0.95)
    terms = math.log(2) + np.log(reference.kth(reference.others(x[:, None]), 3)) + special.digamma(400)
    assert estimate.standard_error == pytest.approx(terms.std() / 20, rel=1e-9)
    assert estimate.high - estimate.value == pytest.approx(stats.norm.ppf(0.975) * estimate.standard_error, rel=1e-9)
    assert entropic.knn_entropy(x, confidence=0.95, base=2).value == pytest.approx(estimate.value / math.log(2))


def test_confidence_of_the_weighted_estimate(rng):
    """The error is that of what the weights make of it, not that of one order, which is half as large."""
    estimates = [
        entropic.knn_entropy(rng.normal(size=(600, 4)), k=12, weighted=True, metric="euclidean", confidence=0.95)
        for _ in range(100)
    ]
    spread = np.std([estimate.value for estimate in estimates])
    assert 0.7 < np.mean([estimate.standard_error for estimate in estimates]) / spread < 1.1


def test_weighted_estimate_of_duplicates(rng):
    """One pair of equal samples makes the term of the first order infinite, whatever the sign of its weight."""
    x = rng.normal(size=(100, 4))
    x[0] = x[1]
    with pytest.raises(ValueError, match=r"0\.02 of the samples have 1 or more others at the same place"):
        entropic.knn_entropy(x, k=10, weighted=True)
    with pytest.warns(entropic.TiesWarning):
        assert entropic.knn_entropy(x, k=10, weighted=True, ties="warn") == -math.inf
    assert math.isfinite(entropic.knn_entropy(x[:, :3], k=10, weighted=True))  # only the tenth order counts here


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 3, 6]), st.integers(-40, 40))
def test_laws_of_entropy(seed, d, power):
    rng = np.random.default_rng(seed)
    x = rng.integers(-(2**20), 2**20, size=(80, d)) / 2**10 + np.arange(80)[:, None] * 2.0**-11
    value = entropic.knn_entropy(x, metric="euclidean", ties="warn")
    assert entropic.knn_entropy(x + 2.0**10, metric="euclidean") == value  # exact in these numbers
    scaled = entropic.knn_entropy(x * 2.0**power, metric="euclidean")
    assert scaled == pytest.approx(value + d * power * math.log(2), abs=1e-10)
    assert entropic.knn_entropy(rng.permutation(x), metric="euclidean") == pytest.approx(value, abs=1e-12)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    assert entropic.knn_entropy(x @ rotation, metric="euclidean") == pytest.approx(value, abs=1e-9)


def test_hundreds_of_dimensions(rng):
    """Volumes whose Gamma function overflows."""
    value = entropic.knn_entropy(rng.normal(size=(50, 700)), metric="euclidean")
    assert math.isfinite(value)
    assert value == pytest.approx(
        reference.entropy(np.random.default_rng(20260717).normal(size=(50, 700)), 3, "euclidean")
    )


# ---- spacings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["vasicek", "van_es", "ebrahimi", "correa"])
def test_spacing_entropy_is_the_formula_and_scipy(rng, method):
    x = rng.normal(size=(80, 3))
    for m in (1, 4, 30, 39):
        got = entropic.spacing_entropy(x, window=m, method=method)
        np.testing.assert_allclose(got, [reference.spacing_entropy(c, m, method) for c in x.T], rtol=1e-11, atol=1e-12)
        if 2 <= 2 * m < 80:
            peer = stats.differential_entropy(x, window_length=m, method=method.replace("_", " "), axis=0)
            np.testing.assert_allclose(got, peer, rtol=1e-10)
    default = entropic.spacing_entropy(x.T, method=method, axis=1, base=2)
    np.testing.assert_allclose(
        default, stats.differential_entropy(x, method=method.replace("_", " "), base=2), rtol=1e-10
    )


def test_vasicek_mean_on_the_uniform_is_what_is_taken_off(rng):
    x = rng.random((50, 20_000))
    values = entropic.spacing_entropy(x, window=5, method="bias_corrected")
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(x.shape[1])
    assert entropic.spacing_entropy(x, window=5).mean() < -0.1


def test_spacing_shapes_and_types(rng):
    x = rng.normal(size=(4, 30, 5)).astype(np.float32)
    got = entropic.spacing_entropy(x, axis=1)
    assert got.shape == (4, 5)
    assert got.dtype == np.float32
    assert np.ndim(entropic.spacing_entropy(x[0, :, 0])) == 0
    np.testing.assert_allclose(got[1, 2], entropic.spacing_entropy(x[1, :, 2].astype(float)), rtol=1e-6)
    # integers are not truncated: SciPy's issue 21192
    counts = np.arange(40) ** 2
    np.testing.assert_allclose(entropic.spacing_entropy(counts), entropic.spacing_entropy(counts.astype(float)))


# ---- mutual information ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [(1, 1), (2, 1), (3, 4), (1, 1, 1), (2, 1, 2)])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_information_is_the_formula(rng, dims, k):
    common = rng.normal(size=(160, 1))
    variables = [common + rng.normal(size=(160, d)) for d in dims]
    got = {
        m: entropic.knn_mutual_information(*variables, k=k, method=m) for m in ("ksg1", "ksg2", "mixed", "mixed_paper")
    }
    assert got["ksg1"] == pytest.approx(reference.ksg1(variables, k), abs=1e-12)
    assert got["ksg2"] == pytest.approx(reference.ksg2(variables, k), abs=1e-12)
    assert got["mixed"] == pytest.approx(reference.mixed(variables, k), abs=1e-12)
    assert got["mixed_paper"] == pytest.approx(reference.mixed_paper(variables, k), abs=1e-12)
    for method in ("ksg1", "ksg2", "mixed", "mixed_paper", "tie_aware", "local_nonuniform"):
        if method == "local_nonuniform" and k < sum(dims):
            with pytest.raises(ValueError, match="`k` must be at least"):
                entropic.knn_mutual_information(*variables, k=k, method=method)
            continue
        terms = entropic.knn_mutual_information(*variables, k=k, method=method, pointwise=True)
        whole = entropic.knn_mutual_information(*variables, k=k, method=method, base=2)
        assert terms.mean() / math.log(2) == pytest.approx(whole, abs=1e-12)
    if len(dims) == 2:
        x, y = variables
        z = rng.normal(size=(160, 2)) + common
        aware = entropic.knn_mutual_information(x, y, k=k, method="tie_aware")
        assert aware == pytest.approx(reference.tie_aware(x, y, None, k), abs=1e-12)
        swapped = entropic.knn_mutual_information(y, x, k=k)
        assert swapped == pytest.approx(got["ksg1"], abs=1e-13)
        cmi = {
            m: entropic.knn_conditional_mutual_information(x, y, z, k=k, method=m)
            for m in ("ksg1", "mixed_paper", "tie_aware")
        }
        assert cmi["ksg1"] == pytest.approx(reference.conditional(x, y, z, k), abs=1e-12)
        assert cmi["mixed_paper"] == pytest.approx(reference.rahimzamani(x, y, z, k), abs=1e-12)
        assert cmi["tie_aware"] == pytest.approx(reference.tie_aware(x, y, z, k), abs=1e-12)
        empty = entropic.knn_conditional_mutual_information(x, y, z[:, :0], k=k)
        assert empty == got["ksg1"]


def test_information_of_gaussians():
    rng = np.random.default_rng(7)
    for rho in (0.0, 0.6, 0.9):
        truth = -0.5 * math.log(1 - rho**2)
        for method, bias in (("ksg1", 0.01), ("ksg2", 0.01), ("local_nonuniform", 0.03)):
            values = [
                entropic.knn_mutual_information(*gaussians(rng, 1000, rho), k=5, method=method) for _ in range(40)
            ]
            assert abs(np.mean(values) - truth) < bias + 4 * np.std(values) / math.sqrt(40)


def test_discrete_and_uniform_mixture():
    """Gao and others 2017: X uniform on m symbols, Y uniform on [X, X + 2]."""
    rng = np.random.default_rng(8)
    m = 5
    truth = math.log(m) - (m - 1) / m * math.log(2)
    values = []
    for _ in range(30):
        x = rng.integers(0, m, size=1000)
        values.append(entropic.knn_mutual_information(x, x + 2 * rng.random(1000), method="mixed", k=5))
    assert abs(np.mean(values) - truth) < 0.02 + 4 * np.std(values) / math.sqrt(30)


def test_strong_dependence_needs_the_local_correction():
    """The published demonstration: Y = X + U with noise of 1e-7, truth 16.05 nats, KSG far below."""
    rng = np.random.default_rng(0)
    x = rng.random(500)
    y = x + 1e-7 * rng.random(500)
    truth = 16.05
    assert entropic.knn_mutual_information(x, y, k=5, method="ksg2") < 8
    assert entropic.knn_mutual_information(x, y, k=5, method="local_nonuniform") == pytest.approx(truth, abs=0.4)


def test_principal_box():
    offsets = np.array([[[1.0, 1.0], [-1.0, -1.0], [0.5, 0.5 + 1e-6]]])
    with np.errstate(divide="ignore"):
        assert _log_box_ratio(offsets)[0] < -10


@pytest.mark.parametrize("k", [1, 3, 10])
def test_labels(rng, k):
    labels = rng.integers(0, 4, size=200)
    labels[:2] = 9, 7  # labels of one sample
    labels[2:5] = 5  # fewer samples than k
    x = rng.normal(size=(200, 2)) + labels[:, None]
    got = entropic.knn_mutual_information(x, labels, discrete=True, k=k)
    assert got == pytest.approx(reference.ross(x, labels, k), abs=1e-12)
    names = np.array(list("abcdefghij"))[labels]
    assert entropic.knn_mutual_information(x, names, k=k) == got
    assert entropic.knn_mutual_information(names, x, k=k) == pytest.approx(got, abs=1e-14)
    terms = entropic.knn_mutual_information(x, names, k=k, pointwise=True)
    assert np.isnan(terms).tolist() == [True, True] + [False] * 198
    assert np.nanmean(terms) == pytest.approx(got)


def test_labels_as_scikit_learn_has_them(rng):
    selection = pytest.importorskip("sklearn.feature_selection")
    labels = rng.integers(0, 3, size=500)
    x = rng.normal(size=(500, 3)) + 0.7 * labels[:, None]
    peer = selection.mutual_info_classif(x, labels, random_state=0)
    np.testing.assert_allclose(entropic.mutual_information_matrix(x, labels, discrete_y=True), peer, atol=1e-9)
    y = x[:, 0] + rng.normal(size=500)
    scaled = entropic.mutual_information_matrix(x / x.std(0), y / y.std())
    np.testing.assert_allclose(np.maximum(scaled, 0), selection.mutual_info_regression(x, y, random_state=0), atol=1e-9)


def test_two_label_variables(rng):
    a, b = rng.integers(0, 3, size=300), rng.integers(0, 2, size=300)
    joint = np.histogram2d(a, b, bins=(3, 2))[0] / 300
    truth = (joint * np.log(joint / (joint.sum(1, keepdims=True) * joint.sum(0)))).sum()
    assert entropic.knn_mutual_information(a, b, discrete=(True, True)) == pytest.approx(truth, abs=1e-12)
    matrix = entropic.mutual_information_matrix(np.stack([a, b], 1), discrete=True)
    p = np.bincount(a) / 300
    assert matrix[0, 0] == pytest.approx(-(p * np.log(p)).sum())
    assert matrix[0, 1] == matrix[1, 0] == pytest.approx(truth, abs=1e-12)


def test_permutations_and_jackknife(rng):
    x, y = gaussians(rng, 300, 0.8)
    result = entropic.knn_mutual_information(x, y, permutations=39, jackknife=10, rng=4)
    again = entropic.knn_mutual_information(x, y, permutations=39, jackknife=10, rng=4)
    np.testing.assert_array_equal(result.null, again.null)
    assert result.value == entropic.knn_mutual_information(x, y)
    assert result.p_value == 1 / 40  # never 0
    order = np.random.default_rng(4).permutation(300)
    assert result.null[0] == pytest.approx(reference.ksg1([x, y[order]], 3), abs=1e-12)
    partial = np.array([reference.ksg1([v[np.arange(300) % 10 != g] for v in (x, y)], 3) for g in range(10)])
    assert result.standard_error == pytest.approx(math.sqrt(9 / 10 * ((partial - partial.mean()) ** 2).sum()))
    assert result.corrected == pytest.approx(10 * result.value - 9 * partial.mean())
    independent = [
        entropic.knn_mutual_information(rng.normal(size=60), rng.normal(size=60), permutations=19, rng=i).p_value
        for i in range(60)
    ]
    assert 0.3 < np.mean(independent) < 0.7
    labels = rng.integers(0, 2, size=100)
    assert (
        entropic.knn_mutual_information(
            x[:100] + 3 * labels[:, None], labels, discrete=True, permutations=19, rng=0
        ).p_value
        == 0.05
    )
    three = entropic.knn_mutual_information(x, y, rng.normal(size=300), permutations=5, rng=1)
    assert three.null.shape == (5,)
    assert three.standard_error is None


def test_jackknife_error_is_the_spread():
    rng = np.random.default_rng(11)
    results = [entropic.knn_mutual_information(*gaussians(rng, 400, 0.6), jackknife=20) for _ in range(40)]
    spread = np.std([r.value for r in results])
    assert 0.6 < np.mean([r.standard_error for r in results]) / spread < 1.7


def test_transforms(rng):
    x, y = gaussians(rng, 300, 0.7)
    plain = entropic.knn_mutual_information(x, y)
    ranked = entropic.knn_mutual_information(x, y, transform="rank")
    assert entropic.knn_mutual_information(np.exp(x), y**3, transform="rank") == ranked
    ranks = [stats.rankdata(v, axis=0) for v in (x, y)]
    tied_ranks = entropic.knn_mutual_information(*ranks, ties="warn", method="mixed")
    assert entropic.knn_mutual_information(x, y, transform="rank", method="mixed") == tied_ranks
    standard = entropic.knn_mutual_information(x, y, transform="standardize")
    assert entropic.knn_mutual_information(x * 2.0**30, y * 2.0**-20 + 1, transform="standardize") == pytest.approx(
        standard, abs=1e-9
    )
    assert standard == pytest.approx(reference.ksg1([x / x.std(), y / y.std()], 3), abs=1e-9)
    assert abs(plain - standard) < 0.2


def test_information_matrix_is_the_pairs(rng):
    x = rng.normal(size=(300, 4)) @ rng.normal(size=(4, 4))
    y = x[:, :2] + rng.normal(size=(300, 2))
    matrix = entropic.mutual_information_matrix(x, y, k=4)
    wanted = [[reference.ksg1([x[:, i : i + 1], y[:, j : j + 1]], 4) for j in range(2)] for i in range(4)]
    np.testing.assert_allclose(matrix, wanted, atol=1e-12)
    np.testing.assert_array_equal(entropic.mutual_information_matrix(x, y[:, 0], k=4), matrix[:, 0])
    own = entropic.mutual_information_matrix(x, base=2)
    np.testing.assert_array_equal(own, own.T)
    assert np.isinf(np.diag(own)).all()
    assert own[1, 0] == pytest.approx(reference.ksg1([x[:, :1], x[:, 1:2]], 3) / math.log(2), abs=1e-12)
    x[:, 2] = 5.0
    matrix = entropic.mutual_information_matrix(x, y)
    np.testing.assert_array_equal(matrix[2], 0)
    labels = np.array(["low", "high"])[(y[:, 0] > 0).astype(int)]
    by_labels = entropic.mutual_information_matrix(x[:, :2], labels)
    assert by_labels[0] == pytest.approx(reference.ross(x[:, :1], (y[:, 0] > 0).astype(int), 3), abs=1e-12)


@pytest.mark.parametrize(("lags", "delay", "window"), [((1, 1), 1, 0), ((2, 1), 1, 0), ((1, 3), 2, 0), ((2, 2), 3, 5)])
def test_transfer_entropy_is_the_formula(rng, lags, delay, window):
    source, target, known = rng.normal(size=(150, 1)), rng.normal(size=(150, 2)), rng.normal(size=(150, 1))
    for condition in (None, known):
        got = entropic.transfer_entropy(
            source, target, source_lags=lags[0], target_lags=lags[1], delay=delay, theiler=window, condition=condition
        )
        wanted = reference.transfer(source, target, 3, *lags, delay, window, condition)
        assert got == pytest.approx(wanted, abs=1e-12)


def test_transfer_entropy_of_an_autoregression():
    """Y' = 0.6 Y + 0.4 X + e, X' = 0.5 X + e: 0.092280 nats one way, 0 the other."""
    a, b, c = 0.5, 0.6, 0.4
    var_x = 1 / (1 - a * a)
    cov = a * c * var_x / (1 - a * b)
    var_y = (1 + c * c * var_x + 2 * b * c * cov) / (1 - b * b)
    residual = c * c * (var_x - cov**2 / var_y) + 1
    truth = 0.5 * math.log(residual)
    assert truth == pytest.approx(0.092280, abs=1e-6)
    rng = np.random.default_rng(12)
    forth, back = [], []
    for _ in range(10):
        x, y, noise = np.zeros(5000), np.zeros(5000), rng.normal(size=(5000, 2))
        for t in range(1, 5000):
            x[t] = a * x[t - 1] + noise[t, 0]
            y[t] = b * y[t - 1] + c * x[t - 1] + noise[t, 1]
        forth.append(entropic.transfer_entropy(x[100:], y[100:], k=4))
        back.append(entropic.transfer_entropy(y[100:], x[100:], k=4))
    assert abs(np.mean(forth) - truth) < 0.015 + 4 * np.std(forth) / math.sqrt(10)
    assert abs(np.mean(back)) < 0.01 + 4 * np.std(back) / math.sqrt(10)
    result = entropic.transfer_entropy(x[:600], y[:600], permutations=19, rng=0)
    assert result.p_value == 0.05
    terms = entropic.transfer_entropy(x[:600], y[:600], pointwise=True)
    assert terms.shape == (599,)
    assert terms.mean() == pytest.approx(result.value)


# ---- divergences and dimensions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("sizes", [(100, 60), (60, 100), (80, 80)])
def test_divergences_are_the_formulas(rng, metric, sizes):
    x, y = rng.normal(size=(sizes[0], 2)), rng.normal(size=(sizes[1], 2)) + 0.5
    got = entropic.knn_divergence(x, y, k=4, metric=metric)
    assert got == pytest.approx(reference.divergence(x, y, 4, metric), abs=1e-12)
    for a in (-1.5, 0.5, 2.0):
        integral = reference.power_integral(x, y, 4, a, metric)
        renyi = entropic.alpha_divergence(x, y, alpha=a, k=4, metric=metric)
        assert renyi == pytest.approx(math.log(integral) / (a - 1), abs=1e-11)
        tsallis = entropic.alpha_divergence(x, y, alpha=a, k=4, metric=metric, kind="tsallis")
        assert tsallis == pytest.approx((integral - 1) / (a - 1), rel=1e-10, abs=1e-12)
    integral = reference.power_integral(x, y, 4, 0.5, metric)
    assert entropic.alpha_divergence(x, y, k=4, metric=metric, kind="hellinger") == pytest.approx(1 - integral)
    assert entropic.alpha_divergence(x, y, k=4, metric=metric, kind="bhattacharyya", base=2) == pytest.approx(
        -math.log2(integral)
    )


@pytest.mark.parametrize("m", [500, 2000, 5000])
def test_divergence_of_gaussians(m):
    """The sizes need not agree: a peer divides the sum over n by m."""
    rng = np.random.default_rng(m)
    truth = math.log(1.5) + (1 + 0.5**2) / (2 * 1.5**2) - 0.5
    values = [entropic.knn_divergence(rng.normal(size=2000), rng.normal(0.5, 1.5, size=m), k=4) for _ in range(25)]
    assert abs(np.mean(values) - truth) < 0.015 + 4 * np.std(values) / 5
    same = [entropic.knn_divergence(rng.normal(size=1000), rng.normal(size=m), k=4) for _ in range(25)]
    assert abs(np.mean(same)) < 0.01 + 4 * np.std(same) / 5


def test_dimensions_are_the_formulas(rng):
    x = rng.normal(size=(120, 4))
    for method in ("mle", "mom"):
        got = entropic.local_intrinsic_dimension(x, k=8, method=method)
        np.testing.assert_allclose(got, reference.local_dimensions(x, 8, method), rtol=1e-10)
    inverse = (1 / reference.local_dimensions(x, 8, "mle")).mean()
    assert entropic.intrinsic_dimension(x, k=8) == pytest.approx(1 / inverse)
    far = np.sort(reference.others(x, "euclidean"), axis=1)
    logs = np.sort(np.log(far[:, 1] / far[:, 0]))[:108]
    heights = -np.log(1 - np.arange(1, 109) / 120)
    assert entropic.intrinsic_dimension(x, method="twonn") == pytest.approx((logs @ heights) / (logs @ logs))
    ratio = (far[:, :7] / far[:, 7:8]).mean()
    assert entropic.intrinsic_dimension(x, k=8, method="mom") == pytest.approx(ratio / (1 - ratio))


def test_dimension_in_a_ball():
    """Uniform in a ball around the centre, distances are U^(1/d) of the radius: the estimates are free of bias there."""
    rng = np.random.default_rng(13)
    for d in (2, 5, 11):
        values = []
        for _ in range(300):
            direction = rng.normal(size=(400, d))
            ball = direction / np.linalg.norm(direction, axis=1, keepdims=True) * rng.random((400, 1)) ** (1 / d)
            values.append(1 / entropic.local_intrinsic_dimension(np.zeros((1, d)), ball, k=50)[0])
        assert abs(np.mean(values) - 1 / d) < 4 * np.std(values) / math.sqrt(300)
    plane = rng.random((3000, 2)) @ rng.normal(size=(2, 30))
    for method in ("mle", "twonn", "mom"):
        assert entropic.intrinsic_dimension(plane, method=method) == pytest.approx(2, abs=0.12)


# ---- ties and what peers get wrong -----------------------------------------------------------------------------------


def test_atoms_are_not_densities():
    """Peers return 0, -20.5, -31.7 or -inf for a variable of three values."""
    x = np.random.default_rng(0).integers(0, 3, size=300).astype(float)
    with pytest.raises(ValueError, match=r"knn_entropy: 1 of the samples have 3 or more others at the same place"):
        entropic.knn_entropy(x)
    with pytest.warns(TiesWarning, match="at the same place"):
        assert entropic.knn_entropy(x, ties="warn") == -math.inf
    jittered = entropic.knn_entropy(x, ties="jitter", rng=0)
    assert math.isfinite(jittered)
    assert jittered == entropic.knn_entropy(x, ties="jitter", rng=0)
    assert jittered != entropic.knn_entropy(x, ties="jitter", rng=1)
    # noise is scaled to the data, and not lost beside an offset
    assert entropic.knn_entropy(x + 1e8, ties="jitter", rng=0) == pytest.approx(jittered, abs=1e-6)
    assert entropic.knn_entropy(x * 2.0**40, ties="jitter", rng=0) == pytest.approx(
        jittered + 40 * math.log(2), abs=1e-9
    )
    with pytest.raises(ValueError, match=r"spacing_entropy: .* a window of equal values"):
        entropic.spacing_entropy(x)
    with pytest.warns(TiesWarning):
        assert entropic.spacing_entropy(x, ties="warn") == -math.inf
    with pytest.raises(ValueError, match="knn_divergence: 1 of the samples of `x` have"):
        entropic.knn_divergence(x, x[::2])
    with pytest.raises(ValueError, match="intrinsic_dimension: 1 of the samples have their first neighbour"):
        entropic.intrinsic_dimension(x)


@pytest.mark.parametrize("n", [50, 500, 5000])
def test_constants_tell_nothing_at_any_size(rng, n):
    """scikit-learn's issue 30772: the estimate for a constant feature grew with n."""
    constant, x = np.full(n, 0.1), rng.normal(size=n)
    labels = np.arange(n) % 2
    rare = np.zeros(n, int)
    rare[:3] = 1
    for method in ("ksg1", "ksg2", "mixed", "mixed_paper", "tie_aware", "local_nonuniform"):
        assert entropic.knn_mutual_information(constant, x, method=method) == 0
        assert entropic.knn_mutual_information(constant, constant, method=method) == 0
    assert entropic.knn_mutual_information(constant, labels, discrete=True) == 0
    assert entropic.knn_mutual_information(x, np.zeros(n, int), discrete=True) == 0
    assert abs(entropic.knn_mutual_information(x, rare, discrete=True)) < 8 / n
    assert entropic.knn_conditional_mutual_information(constant, x, x + 1) == pytest.approx(0, abs=1e-12)
    assert entropic.transfer_entropy(constant, x) == pytest.approx(0, abs=1e-12)


def test_tied_data_are_reported_and_counted_exactly(rng):
    x, y = (rng.integers(0, 3, size=(200, 1)).astype(float) for _ in range(2))
    with pytest.warns(TiesWarning, match=r"knn_mutual_information: 1 of the samples .*tie_aware"):
        value = entropic.knn_mutual_information(x, y)
    joint = reference.others(np.hstack([x, y]))
    assert (reference.kth(joint, 3) == 0).all()
    zero = np.zeros(200)
    plug_in = special.digamma(within(joint, zero)) + special.digamma(200)
    plug_in = (
        plug_in
        - special.digamma(within(reference.others(x), zero))
        - special.digamma(within(reference.others(y), zero))
    )
    assert value == pytest.approx(plug_in.mean(), abs=1e-12)
    for size in (300, 3000):  # independent lattices: near 0, and not growing
        a, b = (rng.integers(0, 3, size=size) for _ in range(2))
        assert abs(entropic.knn_mutual_information(a, b, method="tie_aware")) < 10 / size
        assert abs(entropic.knn_mutual_information(a, b, method="mixed")) < 10 / size
        assert abs(entropic.knn_mutual_information(a, b, method="mixed_paper")) < 20 / size
    with pytest.raises(ValueError, match="knn_mutual_information: 1 of the samples"):
        entropic.knn_mutual_information(x, y, ties="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entropic.knn_mutual_information(x, y, ties="jitter", rng=0)
        entropic.knn_mutual_information(rng.normal(size=100), rng.normal(size=100))
    with pytest.warns(TiesWarning, match="mutual_information_matrix: 1 of the samples are tied"):
        assert entropic.mutual_information_matrix(x, y)[0, 0] == pytest.approx(plug_in.mean(), abs=1e-12)


def within(far, radius):
    return reference.within(far, radius, False)


def test_scale_is_no_matter(rng):
    """NPEET's noise of 1e-10 turns 0.83 nats of data at 1e-12 into 0.01."""
    x, y = gaussians(rng, 500, 0.9)
    value = entropic.knn_mutual_information(x, y)
    for power in (-100, -40, 40, 100):
        assert entropic.knn_mutual_information(x * 2.0**power, y * 2.0**power) == value


def test_negative_estimates_are_kept():
    """hoi clips a differential entropy at 0; others clip informations."""
    rng = np.random.default_rng(14)
    assert entropic.knn_entropy(0.01 * rng.normal(size=500)) == pytest.approx(1.4189 + math.log(0.01), abs=0.15)
    values = [entropic.knn_mutual_information(rng.normal(size=200), rng.normal(size=200)) for _ in range(30)]
    assert min(values) < 0 < max(values)


def test_euclidean_constant():
    """Two peers take diameters for radii: off by d log 2."""
    rng = np.random.default_rng(15)
    for d in (1, 2, 5):
        x = rng.normal(size=(4000, d))
        truth = d / 2 * math.log(2 * math.pi * math.e)
        assert entropic.knn_entropy(x, metric="euclidean") == pytest.approx(truth, abs=0.15)


def test_ksg2_without_bias():
    """A peer's is off by 1/k: -0.27 nats at k = 4."""
    rng = np.random.default_rng(16)
    values = [entropic.knn_mutual_information(*gaussians(rng, 1000, 0.0), k=4, method="ksg2") for _ in range(20)]
    assert abs(np.mean(values)) < 0.01 + 4 * np.std(values) / math.sqrt(20)


# ---- gradients -------------------------------------------------------------------------------------------------------


def gradient_check(func, arrays, step=1e-6, rtol=2e-5, **options):
    value, pullback = entropic.vjp(func, *arrays, **options)
    np.testing.assert_array_equal(value, func(*arrays, **options))
    weights = np.random.default_rng(1).normal(size=np.shape(value))
    grads = pullback(weights)
    assert len(grads) == len(arrays)
    for i, grad in enumerate(grads):
        changed = lambda a, i=i: func(*(a if j == i else b for j, b in enumerate(arrays)), **options)  # noqa: E731
        wanted = finite_difference(changed, arrays[i], weights, step)
        np.testing.assert_allclose(grad, wanted, rtol=rtol, atol=rtol * np.abs(wanted).max())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [1, 2, 5])
def test_gradients_of_entropies(rng, metric, d):
    x = rng.normal(size=(25, d))
    gradient_check(entropic.knn_entropy, [x], metric=metric)
    gradient_check(entropic.knn_entropy, [x], metric=metric, k=[1, 4], base=2)
    gradient_check(entropic.knn_entropy, [x], metric=metric, order=2.0)
    gradient_check(entropic.knn_entropy, [x], metric=metric, order=0.5, tsallis=True)
    gradient_check(entropic.knn_entropy, [x], metric=metric, k=6, weighted=True)
    if metric == "chebyshev":
        gradient_check(entropic.knn_entropy, [rng.random((25, d))], support=(0, 1))


@pytest.mark.parametrize("metric", METRICS)
def test_gradients_of_divergence_and_dimension(rng, metric):
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(15, 3))
    gradient_check(entropic.knn_divergence, [x, y], metric=metric)
    for method in ("mle", "mom"):
        gradient_check(entropic.local_intrinsic_dimension, [x], k=5, metric=metric, method=method)
        gradient_check(entropic.local_intrinsic_dimension, [x, y], k=5, metric=metric, method=method)


@pytest.mark.parametrize("method", ["vasicek", "van_es", "ebrahimi", "correa", "bias_corrected"])
def test_gradients_of_spacings(rng, method):
    gradient_check(entropic.spacing_entropy, [rng.normal(size=(20, 3))], method=method)
    gradient_check(entropic.spacing_entropy, [rng.normal(size=(2, 20))], method=method, axis=1, window=3, base=2)
    gradient_check(entropic.spacing_entropy, [rng.normal(size=20)], method=method, window=9)


def test_gradients_with_ties_are_finite(rng):
    x = rng.integers(0, 3, size=(40, 2)).astype(float)
    with pytest.warns(TiesWarning):
        _, pullback = entropic.vjp(entropic.knn_entropy, x, ties="warn")
    assert np.isfinite(pullback(1.0)[0]).all()
    value, pullback = entropic.vjp(entropic.knn_entropy, x, ties="jitter", rng=3)
    assert value == entropic.knn_entropy(x, ties="jitter", rng=3)
    assert np.isfinite(pullback(1.0)[0]).all()
    _, pullback = entropic.vjp(entropic.local_intrinsic_dimension, x, k=4)
    assert np.isfinite(pullback(np.ones(40))[0]).all()
    grad = entropic.vjp(entropic.knn_entropy, rng.normal(size=30).astype(np.float32))[1](1.0)[0]
    assert grad.shape == (30,)
    assert grad.dtype == np.float32


# ---- scikit-learn ----------------------------------------------------------------------------------------------------


def test_selector_passes_scikit_learns_checks():
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = checks.check_estimator(entropic.MutualInformationSelector(), on_fail=None)
    assert len(results) > 30
    assert [r["check_name"] for r in results if r["status"] == "failed"] == []


def test_selector_selects(rng):
    pytest.importorskip("sklearn")
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = rng.normal(size=(400, 6))
    y = x[:, 4] ** 2 + 0.5 * x[:, 1]
    selector = entropic.MutualInformationSelector(n_features=2).fit(x, y)
    assert selector.get_support(indices=True).tolist() == [1, 4]
    np.testing.assert_allclose(
        selector.scores_, entropic.mutual_information_matrix(x, y, transform="standardize"), atol=1e-14
    )
    assert make_pipeline(StandardScaler(), entropic.MutualInformationSelector(0.5)).fit_transform(x, y).shape == (
        400,
        3,
    )
    by_label = entropic.MutualInformationSelector(1, discrete_target=True).fit(x, (x[:, 3] > 0).astype(int))
    assert by_label.get_support(indices=True).tolist() == [3]
    with pytest.raises(ValueError, match="MutualInformationSelector: `n_features`"):
        entropic.MutualInformationSelector(1.5).fit(x, y)


def test_scikit_learn_is_not_imported_for_the_rest():
    code = "import sys, entropic; entropic.knn_entropy([0.0, 1.0, 3.0, 7.0]); print('sklearn' in sys.modules)"
    assert run_python(code).stdout.strip() == "False"


# ---- errors ----------------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(20, 2))
ERRORS = [
    (lambda: entropic.nearest_neighbors(X, k=20), ValueError, "nearest_neighbors: `k` must be at most 19, the number of candidates, got 20"),
    (lambda: entropic.nearest_neighbors(X, k=0), ValueError, "nearest_neighbors: `k` must be at least 1, got 0"),
    (lambda: entropic.nearest_neighbors(X, k=1.5), TypeError, "nearest_neighbors: `k` must be an integer, got 1.5"),
    (lambda: entropic.nearest_neighbors(X, X[:, :1], k=1), ValueError, "nearest_neighbors: `x` and `y` must have the same dimension, got 2 and 1"),
    (lambda: entropic.nearest_neighbors(X, k=1, metric="cosine"), ValueError, "nearest_neighbors: `metric` must be one of"),
    (lambda: entropic.nearest_neighbors(X[:1], k=1), ValueError, "nearest_neighbors: `k` must be at most 0"),
    (lambda: entropic.nearest_neighbors([[0.0, np.nan]], k=1), ValueError, r"nearest_neighbors: `x` must be finite, got \[ 0. nan\] in row 0"),
    (lambda: entropic.nearest_neighbors(np.zeros((2, 2, 2)), k=1), ValueError, r"nearest_neighbors: `x` must have shape \(n,\) or \(n, d\), got \(2, 2, 2\)"),
    (lambda: entropic.nearest_neighbors(X + 1j, k=1), TypeError, "nearest_neighbors: `x` must be real"),
    (lambda: entropic.nearest_neighbors(np.empty((3, 0)), k=1), ValueError, "nearest_neighbors: `x` must have at least one column"),
    (lambda: entropic.count_within(X, -1.0), ValueError, "count_within: `radii` must not be negative or nan, got -1.0"),
    (lambda: entropic.count_within(X, [1.0, 2.0]), ValueError, r"count_within: `radii` must be a number or have shape \(20,\), got \(2,\)"),
    (lambda: entropic.knn_entropy(X[:1]), ValueError, "knn_entropy: `x` must have at least 2 samples, got 1"),
    (lambda: entropic.knn_entropy([]), ValueError, "knn_entropy: `x` must have at least 2 samples, got 0"),
    (lambda: entropic.knn_entropy(X, k=20), ValueError, "knn_entropy: `k` must be at most 19"),
    (lambda: entropic.knn_entropy(X, order=4), ValueError, r"knn_entropy: `order` must be less than k \+ 1"),
    (lambda: entropic.knn_entropy(X, order=5, k=[9, 2]), ValueError, r"knn_entropy: `order` must be less than k \+ 1"),
    (lambda: entropic.knn_entropy(X, order=-1), ValueError, "knn_entropy: `order` must be 1, or not negative"),
    (lambda: entropic.knn_entropy(X, ties="noise"), ValueError, "knn_entropy: `ties` must be one of"),
    (lambda: entropic.knn_entropy(X, support=(0, 1)), ValueError, "knn_entropy: `x` has samples outside `support`"),
    (lambda: entropic.knn_entropy(X, support=3), ValueError, "knn_entropy: `support` must be a pair"),
    (lambda: entropic.knn_entropy(X, support=(-9, 9), metric="euclidean"), ValueError, 'knn_entropy: `support` needs metric="chebyshev"'),
    (lambda: entropic.knn_entropy(X, confidence=1.0), ValueError, "knn_entropy: `confidence` must be between 0 and 1"),
    (lambda: entropic.knn_entropy(X, weighted=True, k=[1, 2]), ValueError, "knn_entropy: `weighted` and `confidence` are for one k"),
    (lambda: entropic.knn_entropy(X, order=2, tsallis=True, base=2), ValueError, "knn_entropy: `base` has no meaning"),
    (lambda: entropic.knn_mutual_information(X, X[:9]), ValueError, "knn_mutual_information: `x` and `y` must have as many samples, got 20 and 9"),
    (lambda: entropic.knn_mutual_information(X, X, method="ksg3"), ValueError, "knn_mutual_information: `method` must be one of"),
    (lambda: entropic.knn_mutual_information(X, np.arange(20), discrete=True), ValueError, "knn_mutual_information: every label of `y` occurs once"),
    (lambda: entropic.knn_mutual_information(X, X, discrete=True), ValueError, "knn_mutual_information: `y` holds labels"),
    (lambda: entropic.knn_mutual_information(X, X, jackknife=1), ValueError, "knn_mutual_information: `jackknife` must be 0 or between 2 and n"),
    (lambda: entropic.knn_mutual_information(X, X, permutations=-1), ValueError, "knn_mutual_information: `permutations` must be at least 0"),
    (lambda: entropic.knn_mutual_information(X, X, transform="log"), ValueError, "knn_mutual_information: `transform` must be None"),
    (lambda: entropic.knn_conditional_mutual_information(X, X, X[:3]), ValueError, "knn_conditional_mutual_information: `x` and `z` must have as many"),
    (lambda: entropic.transfer_entropy(X, X, delay=0), ValueError, "transfer_entropy: `delay` must be at least 1, got 0"),
    (lambda: entropic.transfer_entropy(X, X, source_lags=19), ValueError, "transfer_entropy: 20 values leave 1 moments"),
    (lambda: entropic.transfer_entropy(X, X, theiler=9), ValueError, "transfer_entropy: `theiler` = 9 leaves samples in the middle with 0"),
    (lambda: entropic.knn_divergence(X, X[:2]), ValueError, "knn_divergence: `k` must be at most 2"),
    (lambda: entropic.alpha_divergence(X, X + 0.5, alpha=1), ValueError, "alpha_divergence: `alpha` must be finite and at least 1e-6 from 1"),
    (lambda: entropic.alpha_divergence(X, X + 0.5, alpha=4), ValueError, "alpha_divergence: `alpha` must be between"),
    (lambda: entropic.alpha_divergence(X, X + 0.5, alpha=2, kind="hellinger"), ValueError, "alpha_divergence: `alpha` must be 0.5"),
    (lambda: entropic.intrinsic_dimension(X, k=1), ValueError, "intrinsic_dimension: `k` must be at least 2"),
    (lambda: entropic.local_intrinsic_dimension(X, X[:5]), ValueError, "local_intrinsic_dimension: `k` must be at most 5"),
    (lambda: entropic.spacing_entropy(X, window=10), ValueError, "spacing_entropy: `window` must be less than half of n = 20, got 10"),
    (lambda: entropic.spacing_entropy(X[:2]), ValueError, "spacing_entropy: `x` must have at least 3 samples"),
    (lambda: entropic.mutual_information_matrix(X, discrete=[True]), ValueError, "mutual_information_matrix: `discrete` must be None"),
    (lambda: entropic.vjp(entropic.knn_entropy, X, confidence=0.9), TypeError, "vjp of knn_entropy: `confidence` is not supported"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS, ids=range(len(ERRORS)))
def test_errors_say_what_is_wrong(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


# ---- what broke once -------------------------------------------------------------------------------------------------


def test_a_jackknife_keeps_a_label_with_two_samples(rng):
    x = rng.normal(size=(40, 4))
    with pytest.raises(ValueError, match="`jackknife` = 2 leaves samples of which every label occurs once"):
        entropic.knn_mutual_information(x, np.arange(40) // 2, discrete=True, jackknife=2)
    assert entropic.knn_mutual_information(x, np.arange(40) // 4, discrete=True, jackknife=2).standard_error > 0


def test_permutations_that_change_nothing_are_equal():
    """Their sums are in another order, and differ in the last digit."""
    a, b = [0, 1, 1, 1], [0, 0, 1, 1]
    found = entropic.knn_mutual_information(a, b, discrete=[True, True], permutations=99, rng=0, k=1)
    assert len(np.unique(found.null.round(12))) == 1
    assert found.p_value == 1


def test_weights_need_enough_neighbours(rng):
    x = rng.normal(size=(200, 4))
    with pytest.raises(ValueError, match="cancels 1 terms of the bias in 4 dimensions, for which `k` = 1 is too small"):
        entropic.knn_entropy(x, k=1, weighted=True)
    with pytest.raises(ValueError, match="in 50 dimensions"):
        entropic.knn_entropy(rng.normal(size=(100, 50)), k=60, weighted=True)
    for k in (2, 3, 20):
        moved = entropic.knn_entropy(10 * x, k=k, weighted=True) - entropic.knn_entropy(x, k=k, weighted=True)
        assert moved == pytest.approx(4 * math.log(10), rel=1e-9)


def test_a_matrix_reports_ties_as_its_pairs_do(rng):
    a = rng.normal(size=(200, 2))
    pair = entropic.knn_mutual_information(a[:, 0], a[:, 1], transform="rank", ties="raise")
    matrix = entropic.mutual_information_matrix(a, transform="rank", ties="raise")
    assert matrix[0, 1] == pytest.approx(pair, rel=1e-12)
    rounded = np.round(rng.normal(size=(3000, 2)), 5)
    assert entropic.mutual_information_matrix(rounded, ties="raise")[0, 1] == pytest.approx(
        entropic.knn_mutual_information(rounded[:, 0], rounded[:, 1], ties="raise"), rel=1e-12
    )
    with pytest.raises(ValueError, match="tied"):
        entropic.mutual_information_matrix(np.round(a, 1), ties="raise")


def test_columns_of_booleans_are_labels(rng):
    x, y = rng.normal(size=(50, 3)), rng.random((50, 2)) < 0.5
    found = entropic.mutual_information_matrix(x, y)
    for j in range(2):
        np.testing.assert_allclose(found[:, j], entropic.mutual_information_matrix(x, y[:, j]), rtol=1e-14)


def test_dimension_where_all_neighbours_are_equally_far():
    cross = [[0.1, 0], [-0.1, 0], [0, 0.1], [0, -0.1]]
    assert entropic.local_intrinsic_dimension([[0.0, 0.0]], cross, k=4, method="mom") == [np.inf]
    for method in ("twonn", "mle", "mom"):
        assert entropic.intrinsic_dimension(np.eye(6), method=method, k=5) == np.inf
    x = np.random.default_rng(0).normal(size=(30, 2))
    for method in ("mle", "mom"):
        for size in (1e-170, 1e160, 1e300):
            np.testing.assert_allclose(
                entropic.local_intrinsic_dimension(size * x, k=5, method=method),
                entropic.local_intrinsic_dimension(x, k=5, method=method), rtol=1e-9,
            )  # fmt: skip
            grads = [
                entropic.vjp(entropic.local_intrinsic_dimension, s * x, k=5, method=method)[1](1.0)[0] * s
                for s in (1.0, size)
            ]
            np.testing.assert_allclose(grads[1], grads[0], rtol=1e-6, atol=1e-9)


def test_correa_at_any_scale_and_offset(rng):
    x = rng.normal(size=40)
    value = entropic.spacing_entropy(x, method="correa", window=3)
    grad = entropic.vjp(entropic.spacing_entropy, x, method="correa", window=3)[1](1.0)[0]
    for size in (1e-170, 1e-300, 1e160, 1e300):
        assert entropic.spacing_entropy(size * x, method="correa", window=3) == pytest.approx(value + math.log(size))
        scaled = entropic.vjp(entropic.spacing_entropy, size * x, method="correa", window=3)[1](1.0)[0]
        np.testing.assert_allclose(scaled * size, grad, rtol=1e-7)
    for offset in (0.0, 0.1, 0.3, 0.7, 1e8 + 0.1):
        tied = offset + np.array([0, 0, 0, 1, 2, 3.0])
        for method in ("vasicek", "van_es", "ebrahimi", "correa", "bias_corrected"):
            if method != "van_es":  # whose spacings reach over three values here
                with pytest.warns(entropic.TiesWarning):
                    assert entropic.spacing_entropy(tied, window=1, method=method, ties="warn") == -np.inf
    for n in (3, 4, 5):
        assert np.isfinite(entropic.spacing_entropy(x[:n]))


@pytest.mark.parametrize("method", ["ksg1", "ksg2", "tie_aware", "mixed", "local_nonuniform"])
def test_a_constant_adds_nothing_to_a_total_correlation(method, rng):
    a, b, c = rng.normal(size=300), rng.normal(size=300), np.full(300, 7.0)
    alone = entropic.knn_mutual_information(a, b, method=method)
    for variables in ((a, b, c), (c, a, b), (a, c, b, c)):
        assert entropic.knn_mutual_information(*variables, method=method, k=4) == pytest.approx(
            entropic.knn_mutual_information(a, b, method=method, k=4), rel=1e-12
        )
    assert np.isfinite(alone)
    assert entropic.knn_mutual_information(c, c, c, method=method) == 0


def test_counts_at_the_ends_of_the_range():
    tiny = np.array([[5e-324, 0.0], [1e-323, 0.0], [0, 0]])
    for strict in (True, False):
        assert entropic.count_within(tiny, np.inf, strict=strict).tolist() == [2, 2, 2]
    huge = np.array([[1e300, 0], [1e300, 0], [0, 1e300]])
    for radius in (1e-30, 1e-10, 1e250):
        for strict in (True, False):
            assert entropic.count_within(huge, radius, strict=strict).tolist() == [1, 1, 0]
    assert entropic.count_within(huge, 0.0, strict=True).tolist() == [0, 0, 0]
    mixed = np.array([[1e300, 0.0], [1e300, 1e-40], [0, 0]])
    assert entropic.nearest_neighbors(mixed, k=1)[0].ravel().tolist() == [1e-40, 1e-40, 1e300]
    ends = np.array([[-1.7e308, 0.0], [1.7e308, 0.0], [1.7e308, 1]])
    for metric in ("euclidean", "chebyshev", "manhattan"):
        assert entropic.count_within(ends, np.inf, metric=metric).tolist() == [2, 2, 2]
        assert entropic.count_within(ends[:, 0], np.inf, metric=metric).tolist() == [2, 2, 2]
        distances, numbers = entropic.nearest_neighbors(ends[:2], k=1, metric=metric)
        assert distances.ravel().tolist() == [np.inf, np.inf]
        assert numbers.ravel().tolist() == [1, 0]


def test_standardizing_the_largest_numbers(rng):
    x, y = rng.random(100), rng.normal(size=100)
    expected = entropic.knn_mutual_information(x + 1, y, transform="standardize")
    assert entropic.knn_mutual_information((x + 1) * 8e307, y, transform="standardize") == pytest.approx(expected)


def test_an_empty_condition(rng):
    x, y = rng.normal(size=60), rng.normal(size=60)
    nothing = np.empty((60, 0))
    assert entropic.knn_conditional_mutual_information(x, y, nothing) == entropic.knn_mutual_information(x, y)
    with pytest.raises(ValueError, match="knn_conditional_mutual_information: `x` and `z` must have as many samples"):
        entropic.knn_conditional_mutual_information(x, y, nothing[:7])
    with pytest.raises(ValueError, match="knn_conditional_mutual_information: `x` and `y` must have as many samples"):
        entropic.knn_conditional_mutual_information(x, y[:9], nothing)


def test_gradients_are_those_of_the_positional_arrays(rng):
    x, y = rng.normal(size=(30, 2)), rng.normal(size=(40, 2))
    both = entropic.vjp(entropic.knn_divergence, x, y)[1](1.0)
    (first,) = entropic.vjp(entropic.knn_divergence, x, y=y)[1](1.0)
    assert len(both) == 2
    np.testing.assert_array_equal(first, both[0])
    (by_x,) = entropic.vjp(entropic.local_intrinsic_dimension, x, reference=y)[1](1.0)
    np.testing.assert_array_equal(by_x, entropic.vjp(entropic.local_intrinsic_dimension, x, y)[1](1.0)[0])


def test_gradient_of_a_power_beside_an_atom(rng):
    x = rng.normal(size=(30, 2))
    x[:6] = 1.0
    for order in (0.5, 1.0, 2.0):
        with pytest.warns(entropic.TiesWarning):
            _, pullback = entropic.vjp(entropic.knn_entropy, x, ties="warn", order=order)
        assert np.isfinite(pullback(1.0)[0]).all()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda x: entropic.knn_mutual_information(x, np.array(["a", None] * 10, object), discrete=True), TypeError,
         "knn_mutual_information: `y` has labels that cannot be sorted"),
        (lambda x: entropic.knn_mutual_information(x, np.array(["a", np.nan] * 10, object), discrete=True), ValueError,
         "`y` has nan among its labels"),
        (lambda x: entropic.knn_entropy(x, k=[[1], [1, 2]]), ValueError, "knn_entropy: `k` must be an integer or"),
        (lambda x: entropic.knn_entropy(x, k=[True, 2]), TypeError, "knn_entropy: `k` must hold integers"),
        (lambda x: entropic.knn_entropy(x, confidence=np.nextafter(1, 0)), ValueError, "`confidence` must be between"),
        (lambda x: entropic.knn_entropy(x, weighted="no"), TypeError, "knn_entropy: `weighted`"),
        (lambda x: entropic.knn_mutual_information(x, x, pointwise="no"), TypeError, "`pointwise`"),
        (lambda x: entropic.transfer_entropy(x, x, pointwise="no"), TypeError, "transfer_entropy: `pointwise`"),
    ],
)  # fmt: skip
def test_more_errors_say_what_is_wrong(call, kind, message, rng):
    with pytest.raises(kind, match=message):
        call(rng.normal(size=20))
