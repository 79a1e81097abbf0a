"""Token statistics, cross-entropies, attention and what is built on them: references, peers, edges and error texts."""

import itertools
import math

import ml_dtypes
import mpmath
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import logits as reference

import entropic
from entropic import _core

FLOATS = [np.float32, np.float64]
# A result rounded to each type
TOLERANCE = {np.float32: 1e-6, np.float64: 1e-12, np.float16: 1e-3, ml_dtypes.bfloat16: 8e-3, np.int16: 1e-12}
INF, NAN = np.inf, np.nan
FIELDS = ("logsumexp", "entropy", "logprob", "max_prob", "collision", "varentropy", "expectation")
# The docstring's promise for values whose terms have one sign: relative, entropy's bound of the family for float32.
RELATIVE = {np.float32: 2e-7, np.float64: 1e-13}
# Of one float32 exponential of a rounded difference, where nothing averages: the largest probability.
SINGLE = {np.float32: 6e-7, np.float64: 1e-13}


def rows_of(dtype, rng):
    n = 1500
    peak = rng.normal(size=n)
    peak[n // 3] += 25
    return {
        "normal": (rng.normal(size=n) * 3).astype(dtype),
        "peak 25": peak.astype(dtype),
        "peak 40 over a constant": np.r_[np.zeros(700), 40, np.zeros(800)].astype(dtype),
        "offset 1000": (1000 + rng.normal(size=n)).astype(dtype),
        "offset -1000": (-1000 + rng.normal(size=n)).astype(dtype),
        "wide": rng.uniform(-300, 300, n).astype(dtype),
        "ascending": np.linspace(-50, 50, n).astype(dtype),
        "descending": np.linspace(50, -50, n).astype(dtype),
        "ties": np.full(n, 3.5, dtype),
        "late ties": np.r_[np.zeros(1200), 2, 2, np.zeros(10), 2].astype(dtype),
        "with -inf": np.where(rng.random(n) < 0.3, -INF, rng.normal(size=n)).astype(dtype),
        "one": np.array([-2.5], dtype),
        "two": np.array([0, -40], dtype),
        "mixed sizes": np.r_[rng.normal(size=600), 60, rng.normal(size=600)].astype(dtype),
    }


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.5])
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_field_against_100_digits(dtype, temperature, isa, rng):
    for name, row in rows_of(dtype, rng).items():
        values = rng.random(row.size).astype(dtype)
        target = int(np.flatnonzero(np.isfinite(row))[-1])
        exact = reference.token_stats(row, temperature, values=values, target=target)
        stats = entropic.logit_stats(row[None], [target], temperature=temperature, expect=values)
        assert stats.argmax[0] == row.argmax(), name
        assert stats.max_logit[0] == row.max(), name
        for field in FIELDS:
            got = getattr(stats, field)[0]
            assert got.dtype == dtype
            averages = field not in ("max_prob", "collision", "expectation", "varentropy")
            # without a fused multiply-add what rounding (x - m) / T loses is not known
            fused = isa != "baseline" or temperature == 1
            bound = RELATIVE if averages and fused else SINGLE
            error = reference.relative_error(got, exact[field])
            # exp underflows to 0 in the result's type
            tiny = abs(exact[field]) < float(np.finfo(np.float32).tiny)
            assert error <= bound[dtype] or tiny or (field == "logsumexp" and abs(got - exact[field]) < 1e-13), (
                name, field, error,
            )  # fmt: skip


@pytest.mark.parametrize("height", [25, 40])
def test_nearly_certain_rows_in_float32(height):
    """Where log p . p in float32 returns 0 or is percents off."""
    row = np.zeros((1, 128256), np.float32)
    row[0, 777] = height
    exact = reference.token_stats([0.0, height])
    rest = mpmath.mpf(128255) * mpmath.exp(-height)
    entropy = mpmath.log1p(rest) + rest * height / (1 + rest)
    for offset in (0, 1000):
        stats = entropic.logit_stats(row + np.float32(offset), [777])
        assert reference.relative_error(stats.entropy[0], entropy) < 2e-7
        assert reference.relative_error(stats.logprob[0], -mpmath.log1p(rest)) < 2e-7
    assert exact["max_prob"] > 0.99


def test_varentropy_keeps_its_digits_beside_a_large_mean():
    """One logit above 1e5 equal ones: the second moment is 1e5 times the variance."""
    row = np.r_[np.full(100000, 5.0), 5.01].astype(np.float32)
    d = mpmath.mpf(float(row[-1])) - 5
    p = 1 / (1 + 100000 * mpmath.exp(-d))
    exact = p * (1 - p) * d**2
    assert reference.relative_error(entropic.logit_stats(row[None]).varentropy[0], exact) < 1e-5
    assert reference.relative_error(entropic.logit_stats(row[None].astype(float)).varentropy[0], exact) < 1e-9


def test_agrees_with_the_family(rng):
    x = rng.normal(size=(5, 3, 70000)).astype(np.float32)
    stats = entropic.logit_stats(x)
    np.testing.assert_allclose(stats.logsumexp, entropic.logsumexp(x, axis=-1), rtol=1e-6)
    np.testing.assert_allclose(stats.entropy, entropic.softmax_entropy(x), rtol=3e-7)


def test_same_bits_for_any_thread_count(rng):
    x = (rng.normal(size=(40, 70001)) * 4).astype(np.float32)
    with entropic.num_threads(1):
        first = entropic.logit_stats(x, np.arange(40))
    for threads in (2, 3, 5):
        with entropic.num_threads(threads):
            again = entropic.logit_stats(x, np.arange(40))
        for field in ("logsumexp", "entropy", "logprob", "collision", "varentropy", "argmax"):
            np.testing.assert_array_equal(getattr(again, field), getattr(first, field))


def test_sets_agree_and_widen_alike(rng):
    """Half types are the same numbers in float32, on every instruction set, in whole packs and not."""
    before = _core.isa_active()
    try:
        for n in (1, 15, 16, 31, 513, 5000):
            for dtype in (ml_dtypes.bfloat16, np.float16):
                half = (rng.normal(size=(3, n)) * 4).astype(dtype)
                answers = []
                for name in _core.isa_available():
                    assert _core.force_isa(name)
                    narrow, wide = entropic.logit_stats(half), entropic.logit_stats(half.astype(np.float32))
                    assert narrow.entropy.dtype == np.float32
                    np.testing.assert_allclose(narrow.entropy, wide.entropy, rtol=2e-7)
                    np.testing.assert_array_equal(narrow.argmax, wide.argmax)
                    np.testing.assert_array_equal(entropic.logsumexp(half.astype(np.float32), axis=1).astype(dtype),
                                                  entropic.logsumexp(half, axis=1))  # fmt: skip
                    answers.append(wide.varentropy)
                for a in answers[1:]:
                    np.testing.assert_allclose(a, answers[0], rtol=2e-6, atol=1e-12)
    finally:
        _core.force_isa(before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int32, np.uint8, ">f4"])
def test_layouts_and_types(dtype, rng):
    base = rng.integers(0, 30, (4, 6, 40)).astype(dtype)
    targets = rng.integers(0, 40, (4, 6))
    plain = entropic.logit_stats(base.astype(np.float64), targets)
    views = {
        "reversed": (base[:, :, ::-1], 39 - targets, -1),
        "fortran": (np.asfortranarray(base), targets, 2),
        "axis 0": (np.moveaxis(base, 2, 0), targets, 0),
        "axis 1 copy": (np.ascontiguousarray(np.moveaxis(base, 2, 1)), targets, 1),
        "every other": (np.repeat(base, 2, axis=2)[:, :, ::2], targets, -1),
    }
    for name, (x, t, axis) in views.items():
        stats = entropic.logit_stats(x, t, axis=axis)
        np.testing.assert_allclose(stats.entropy, plain.entropy, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(stats.logprob, plain.logprob, rtol=1e-6, err_msg=name)
        np.testing.assert_array_equal(stats.argmax, np.asarray(x.astype(np.float64)).argmax(axis=axis), err_msg=name)


def test_nan_and_infinity():
    x = np.array([[0, 1, NAN, 2, NAN], [0, INF, 1, INF, 0], [-INF, 0, -INF, 1, -INF], [NAN, INF, 0, 0, 0]])
    stats = entropic.logit_stats(x, [1, 1, 3, 2])
    np.testing.assert_array_equal(stats.argmax, [2, 1, 3, 0])
    np.testing.assert_array_equal(stats.logsumexp, [NAN, INF, np.logaddexp(0, 1), NAN])
    for field in ("entropy", "logprob", "max_prob", "collision", "varentropy"):
        assert np.isnan(getattr(stats, field)[[0, 1, 3]]).all(), field
        assert np.isfinite(getattr(stats, field)[2]), field
    np.testing.assert_array_equal(entropic.logit_stats(x, [0, 0, 0, 0]).logprob[1:3], [-INF, -INF])
    long = np.zeros((1, 9000), np.float32)
    for place in (0, 511, 4096, 8999):
        row = long.copy()
        row[0, place] = INF
        assert entropic.logit_stats(row).argmax[0] == place
        assert entropic.logit_stats(row).logsumexp[0] == INF
        row[0, -1 if place < 8999 else 3] = NAN
        assert np.isnan(entropic.logit_stats(row).logsumexp[0])


def test_rows_without_mass(rng):
    x = np.full((2, 5), -INF, np.float32)
    stats = entropic.logit_stats(x, [0, 1], expect=np.arange(5.0))
    np.testing.assert_array_equal(stats.logsumexp, -INF)
    np.testing.assert_array_equal(stats.logprob, -INF)
    np.testing.assert_array_equal(stats.argmax, -1)
    for field in ("entropy", "max_prob", "collision", "varentropy", "expectation"):
        np.testing.assert_array_equal(getattr(stats, field), 0)
    masked = entropic.logit_stats(rng.normal(size=(2, 5)), [0, 1], mask=np.zeros((2, 5), bool))
    np.testing.assert_array_equal(masked.entropy, 0)
    np.testing.assert_array_equal(masked.argmax, -1)
    nan = entropic.logit_stats(x, [0, 1], masked_rows="nan")
    np.testing.assert_array_equal(nan.logsumexp, -INF)
    assert np.isnan([nan.entropy, nan.logprob]).all()
    np.testing.assert_array_equal(nan.argmax, -1)
    for options in ({}, {"mask": np.zeros(5, bool)}, {"masked_rows": "nan"}, {"top_k": 2}):
        values = rng.normal(size=(2, 5)) if "mask" in options else x
        _, pullback = entropic.vjp(entropic.logit_stats, values, [0, 1], **options)
        cotangent = dict.fromkeys(("entropy", "logsumexp", "logprob", "varentropy", "collision", "max_prob"), 1.0)
        np.testing.assert_array_equal(pullback(cotangent)[0], 0)


def test_empty_and_single():
    for shape in ((0, 5), (3, 0, 5)):
        stats = entropic.logit_stats(np.zeros(shape), np.zeros(shape[:-1], int), top_k=2)
        assert stats.entropy.shape == shape[:-1]
        assert entropic.vjp(entropic.logit_stats, np.zeros(shape))[1]({"entropy": 1.0})[0].shape == shape
    one = entropic.logit_stats(np.array([[7.0], [-3.0]]), [0, 0])
    np.testing.assert_array_equal(one.entropy, 0)
    np.testing.assert_array_equal(one.logprob, 0)
    np.testing.assert_array_equal(one.max_prob, 1)
    none = entropic.logit_stats(np.zeros((2, 0)))
    np.testing.assert_array_equal(none.logsumexp, -INF)
    scalar = entropic.logit_stats(np.array([1.0, 2.0]), 1)
    assert isinstance(scalar.entropy, np.float64)
    assert scalar.argmax == 1


def test_base_and_temperatures(rng):
    x, t = rng.normal(size=(4, 30)), rng.integers(0, 30, 4)
    nats, bits = entropic.logit_stats(x, t), entropic.logit_stats(x, t, base=2)
    np.testing.assert_allclose(bits.entropy, nats.entropy / np.log(2))
    np.testing.assert_allclose(bits.logprob, nats.logprob / np.log(2))
    np.testing.assert_allclose(bits.varentropy, nats.varentropy / np.log(2) ** 2)
    np.testing.assert_array_equal(bits.logsumexp, nats.logsumexp)
    several = entropic.logit_stats(x, t, temperatures=(0.5, 1.0, 3.0), top_p=0.9)
    for i, temperature in enumerate((0.5, 1.0, 3.0)):
        single = entropic.logit_stats(x, t, temperature=temperature, top_p=0.9)
        for field in ("entropy", "logprob", "logsumexp", "collision"):
            np.testing.assert_allclose(getattr(several, field)[i], getattr(single, field), rtol=1e-13)
    per_row = entropic.logit_stats(x, temperature=np.array([0.5, 1, 2, 4]))
    for i, temperature in enumerate((0.5, 1, 2, 4)):
        np.testing.assert_allclose(per_row.entropy[i], entropic.softmax_entropy(x[i] / temperature), rtol=1e-12)
    rising = entropic.logit_stats(x, temperatures=np.linspace(0.1, 5, 40)).entropy
    assert (np.diff(rising, axis=0) > 0).all()
    column = entropic.logit_stats(x.T, axis=0, temperatures=[0.5, 2.0])
    np.testing.assert_allclose(column.entropy, entropic.logit_stats(x, temperatures=[0.5, 2.0]).entropy, rtol=1e-13)


# ---- filters ---------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(-6, 6), min_size=1, max_size=12),
    st.one_of(st.none(), st.integers(1, 14)),
    st.sampled_from([None, 0.05, 0.37, 0.8, 0.999, 1.0]),
    st.sampled_from([None, 0.0, 0.1, 0.29, 0.5, 0.9]),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.integers(0, 2**12 - 1),
    st.sampled_from(FLOATS),
)
def test_filters_keep_what_sorting_keeps(row, top_k, top_p, drop, temperature, bits, dtype):
    mask = np.array([bits >> j & 1 for j in range(len(row))], bool)
    kept = reference.kept_set(row, temperature, mask, top_k, top_p or 1.0, drop or 0.0)
    # a run of mass that ends within rounding of top_p may go either way
    x, indices = np.array([row], dtype), np.arange(len(row), dtype=float)
    stats = entropic.logit_stats(
        x, temperature=temperature, mask=mask, top_k=top_k, top_p=top_p, drop_fraction=drop, expect=indices
    )
    if not kept:
        assert stats.argmax[0] == -1
        assert stats.entropy[0] == 0
        return
    exact = reference.token_stats(row, temperature, kept, indices)
    for field in ("logsumexp", "entropy", "collision", "expectation"):
        assert float(getattr(stats, field)[0]) == pytest.approx(float(exact[field]), rel=1e-6, abs=1e-6), field
    assert stats.argmax[0] == min(kept, key=lambda j: (-row[j], j))


def test_filters_in_words(rng):
    uniform = np.zeros((1, 4))
    assert entropic.logit_stats(uniform, top_p=0.5).entropy[0] == pytest.approx(np.log(2))
    assert entropic.logit_stats(uniform, top_p=0.51).entropy[0] == pytest.approx(np.log(3))
    assert entropic.logit_stats(uniform, drop_fraction=0.25).entropy[0] == pytest.approx(np.log(3))
    x = rng.normal(size=(3, 20))
    top = entropic.logit_stats(x, x.argmax(axis=1), top_k=1)
    np.testing.assert_array_equal(top.entropy, 0)
    np.testing.assert_array_equal(top.logprob, 0)
    np.testing.assert_array_equal(entropic.logit_stats(x, x.argmin(axis=1), top_k=5).logprob, -INF)
    # of equals the first stay
    tied = np.array([[1.0, 0, 0, 0]])
    np.testing.assert_array_equal(entropic.logit_stats(np.repeat(tied, 4, 0), [0, 1, 2, 3], top_k=2).logprob > -INF,
                                  [True, True, False, False])  # fmt: skip
    # the chain rule of entropy over what is kept and what is not
    p = entropic.softmax(x, axis=1)
    order = np.argsort(-x, axis=1)
    kept = np.take_along_axis(p, order[:, :7], 1).sum(axis=1)
    mask = np.zeros(x.shape, bool)
    np.put_along_axis(mask, order[:, :7], True, axis=1)
    outer = -kept * np.log(kept) - (1 - kept) * np.log1p(-kept)
    inner = kept * entropic.logit_stats(x, top_k=7).entropy + (1 - kept) * entropic.logit_stats(x, mask=~mask).entropy
    np.testing.assert_allclose(outer + inner, entropic.softmax_entropy(x), rtol=1e-12)
    assert np.isnan(entropic.logit_stats(np.array([[0, NAN, 1]]), top_k=1).entropy[0])


# ---- parts of a vocabulary -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_parts_merge_to_the_whole(dtype, rng):
    x = (rng.normal(size=(6, 90)) * 5).astype(dtype)
    x[0, [10, 40, 80]] = 30  # ties across parts
    x[1, :30] = -INF
    x[2, 50] = INF
    x[3, 70] = NAN
    t, values = rng.integers(0, 90, 6), rng.normal(size=90).astype(dtype)
    cuts = [0, 30, 30, 61, 90]
    parts = [
        entropic.logit_stats(x[:, a:b], t, offset=a, temperature=0.8, expect=values[a:b])
        for a, b in itertools.pairwise(cuts)
    ]
    whole = entropic.logit_stats(x, t, temperature=0.8, expect=values)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        merged = entropic.LogitStats.merge(*(parts[i] for i in order))
        for field in FIELDS:
            np.testing.assert_allclose(getattr(merged, field), getattr(whole, field), rtol=SINGLE[dtype], atol=1e-7)
        np.testing.assert_array_equal(merged.argmax, whole.argmax)
        np.testing.assert_array_equal(merged.max_logit, whole.max_logit)
    assert repr(whole) == f"LogitStats(shape=(6,), dtype={np.dtype(dtype)}, targets, expectation)"
    single = entropic.LogitStats.merge(parts[0])
    np.testing.assert_array_equal(single.logsumexp, parts[0].logsumexp)


def test_merge_refuses(rng):
    x = rng.normal(size=(3, 8))
    part = entropic.logit_stats(x, offset=0)
    for other, message in [
        (entropic.logit_stats(x, top_k=2), "was filtered by `top_k`"),
        (entropic.logit_stats(x[:2]), r"shapes differ, \(3,\) and \(2,\)"),
        (entropic.logit_stats(x, temperature=2.0), "temperatures differ"),
        (entropic.logit_stats(x, base=2), "another `base` or `masked_rows`"),
    ]:
        with pytest.raises(ValueError, match=message):
            entropic.LogitStats.merge(part, other)
    with pytest.raises(ValueError, match="at least one part"):
        entropic.LogitStats.merge()
    with pytest.raises(TypeError, match="parts must be LogitStats, got ndarray"):
        entropic.LogitStats.merge(part, x)
    with pytest.raises(ValueError, match="no `targets` were given"):
        part.logprob  # noqa: B018
    with pytest.raises(ValueError, match="no values were given as `expect`"):
        part.expectation  # noqa: B018


# ---- errors ----------------------------------------------------------------------------------------------------------

X = np.zeros((2, 5))
BAD_STATS = [
    ({"targets": [0, 5]}, ValueError, r"logit_stats: `targets` must be in \[0, 5\), got 5"),
    ({"targets": [0, -1]}, ValueError, r"`targets` must be in \[0, 5\), got -1"),
    ({"targets": [0]}, ValueError, r"`targets` must have shape \(2,\), one a row, got \(1,\)"),
    ({"targets": [0.5, 1.0]}, TypeError, "`targets` must be integers, got dtype float64"),
    ({"temperature": 0}, ValueError, "`temperature` must be positive and finite"),
    ({"temperature": -1.0}, ValueError, "`temperature` must be positive and finite"),
    ({"temperature": NAN}, ValueError, "`temperature` must be positive and finite"),
    ({"temperature": [1.0, 2.0, 3.0]}, ValueError, r"one value a row, shape \(2,\), got \(3,\)"),
    ({"temperatures": []}, ValueError, "`temperatures` must be a sequence of at least one"),
    ({"temperatures": [1.0], "temperature": 2.0}, ValueError, "either `temperature` or `temperatures`"),
    ({"mask": np.ones((2, 5))}, TypeError, "`mask` must be boolean"),
    ({"mask": np.ones(4, bool)}, ValueError, r"`mask` of shape \(4,\) does not broadcast to \(2, 5\)"),
    ({"top_k": 0}, ValueError, "`top_k` must be at least 1"),
    ({"top_k": 2.5}, TypeError, "`top_k` must be an integer"),
    ({"top_p": 0}, ValueError, "`top_p` must be above 0 and at most 1"),
    ({"top_p": 1.5}, ValueError, "`top_p` must be above 0 and at most 1"),
    ({"drop_fraction": 1.0}, ValueError, "`drop_fraction` must be at least 0 and below 1"),
    ({"expect": np.zeros(4)}, ValueError, r"`expect` must have shape \(5,\)"),
    ({"expect": np.full(5, INF)}, ValueError, "`expect` must be finite"),
    ({"offset": -1}, ValueError, "`offset` must be at least 0"),
    ({"masked_rows": "skip"}, ValueError, "`masked_rows` must be one of 'zero', 'nan'"),
    ({"base": 1}, ValueError, "`base` must be positive, finite and not 1"),
    ({"axis": 2}, ValueError, "`axis` 2 is out of bounds"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "kind", "message"), BAD_STATS)
def test_bad_options(options, kind, message):
    with pytest.raises(kind, match=message):
        entropic.logit_stats(X, **options)


def test_bad_arrays():
    with pytest.raises(ValueError, match="at least one dimension"):
        entropic.logit_stats(1.0)
    with pytest.raises(TypeError, match="must be real"):
        entropic.logit_stats(np.zeros((2, 3), complex))
    with pytest.raises(TypeError, match="masked array"):
        entropic.logit_stats(np.ma.zeros((2, 3)))
    with pytest.raises(TypeError, match="the cotangent must be a dict by field"):
        entropic.vjp(entropic.logit_stats, X)[1](1.0)
    with pytest.raises(ValueError, match=r"fields with a gradient are logsumexp, .*, got 'argmax'"):
        entropic.vjp(entropic.logit_stats, X)[1]({"argmax": 1.0})
    with pytest.raises(ValueError, match="no `targets` were given"):
        entropic.vjp(entropic.logit_stats, X)[1]({"logprob": 1.0})


# ---- gradients -------------------------------------------------------------------------------------------------------


def check_gradient(func, arrays, which=(0,), **options):
    """Every gradient against central differences of the value itself."""
    rng = np.random.default_rng(5)
    value, pullback = entropic.vjp(func, *arrays, **options)
    g = rng.normal(size=np.shape(value))
    found = pullback(g)
    for i in which:

        def at(x, i=i):
            return func(*(x if j == i else a for j, a in enumerate(arrays)), **options)

        numeric = reference.finite_difference(at, np.array(arrays[i], float), g, 1e-6)
        np.testing.assert_allclose(found[i], numeric, rtol=2e-7, atol=2e-7, err_msg=f"{func.__name__} {i}")


STATS_OPTIONS = [
    {},
    {"temperature": np.array([0.5, 1.0, 2.0])},
    {"temperatures": (0.6, 1.3), "base": 2},
    {"top_k": 5},
    {"top_p": 0.8, "temperature": 0.7},
    {"drop_fraction": 0.3},
    {"mask": np.arange(27).reshape(3, 9) % 4 > 0},
    {"axis": 0},
    {"offset": 3},
]


@pytest.mark.parametrize("options", STATS_OPTIONS, ids=lambda o: next(iter(o), "plain"))
def test_gradients_of_fields(options, rng):
    x, t, values = rng.normal(size=(3, 9)), np.array([0, 4, 8]), rng.normal(size=9)
    x = x.T if options.get("axis") == 0 else x
    _, pullback = entropic.vjp(entropic.logit_stats, x, t, expect=values, **options)
    for field in (*FIELDS, "max_logit"):

        def value(y, field=field):
            found = getattr(entropic.logit_stats(y, t, expect=values, **options), field)
            return np.where(np.isfinite(found), found, 0.0)

        g = rng.normal(size=value(x).shape) * np.isfinite(
            getattr(entropic.logit_stats(x, t, expect=values, **options), field)
        )
        numeric = reference.finite_difference(value, x, g, 1e-6)
        np.testing.assert_allclose(pullback({field: g})[0], numeric, rtol=1e-7, atol=1e-7, err_msg=field)
    both = pullback({"entropy": 1.0, "logsumexp": 2.0})[0]
    np.testing.assert_allclose(both, pullback({"entropy": 1.0})[0] + 2 * pullback({"logsumexp": 1.0})[0], atol=1e-12)


def test_gradient_of_a_nearly_certain_target():
    """p - 1 of the target is -1.3e-17: it does not come as a difference."""
    x = np.zeros((1, 4), np.float32)
    x[0, 1] = 40
    exact = 3 * mpmath.exp(-40) / (1 + 3 * mpmath.exp(-40))
    grad = entropic.vjp(entropic.logit_stats, x, [1])[1]({"logprob": 1.0})[0]
    assert reference.relative_error(grad[0, 1], exact) < 2e-7
    loss = entropic.vjp(entropic.cross_entropy, x, [1])[1](1.0)[0]
    assert reference.relative_error(-loss[0, 1], exact) < 2e-7
    half = entropic.vjp(entropic.logit_stats, x.astype(ml_dtypes.bfloat16), [1])[1]({"entropy": 1.0})[0]
    assert half.dtype == ml_dtypes.bfloat16


# ---- cross-entropy ---------------------------------------------------------------------------------------------------


def plain_cross_entropy(x, t, weight=None, ignore=-100, smoothing=0.0, softcap=None, reduction="mean"):
    """Rows last, from the definition."""
    x = np.asarray(x, float)
    x = x if softcap is None else softcap * np.tanh(x / softcap)
    log_p = x - scipy.special.logsumexp(x, axis=-1, keepdims=True)
    v = x.shape[-1]
    w = np.ones(v) if weight is None else weight
    if np.asarray(t).dtype.kind == "f":
        q, counted, own = t, np.ones(x.shape[:-1], bool), np.ones(x.shape[:-1])
        losses = -(((1 - smoothing) * q + smoothing / v) * w * log_p).sum(axis=-1)
    else:
        counted = t != ignore
        safe = np.where(counted, t, 0)
        own = np.where(counted, w[safe], 0)
        picked = np.take_along_axis(log_p, safe[..., None], -1)[..., 0]
        losses = -(1 - smoothing) * own * picked - smoothing / v * (w * log_p).sum(axis=-1)
        losses = np.where(counted, losses, 0)
    return {"none": losses, "sum": losses.sum(), "mean": losses.sum() / own.sum() if own.sum() else NAN}[reduction]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_cross_entropy(reduction, smoothing, weighted, soft, softcap, rng):
    x, weight = rng.normal(size=(4, 3, 7)) * 3, rng.random(7) if weighted else None
    t = rng.dirichlet(np.ones(7), size=(4, 3)) if soft else rng.integers(0, 7, (4, 3))
    if not soft:
        t[1, 2] = -100
    options = {"weight": weight, "label_smoothing": smoothing, "softcap": softcap, "reduction": reduction}
    got = entropic.cross_entropy(x, t, **options)
    expected = plain_cross_entropy(x, t, weight, -100, smoothing, softcap, reduction)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    turned = np.moveaxis(t, -1, 1) if soft else t
    np.testing.assert_allclose(entropic.cross_entropy(np.moveaxis(x, -1, 1), turned, axis=1, **options), expected)
    check_gradient(entropic.cross_entropy, (x, t), (0, 1) if soft else (0,), **options)


def test_cross_entropy_against_torch(rng):
    torch = pytest.importorskip("torch")
    x, t, w = rng.normal(size=(6, 7, 5)), rng.integers(0, 7, (6, 5)), rng.random(7)
    t[0, 0] = 3
    for reduction in ("mean", "sum", "none"):
        tensor = torch.tensor(x, requires_grad=True)
        expected = torch.nn.functional.cross_entropy(
            tensor, torch.tensor(t), weight=torch.tensor(w), ignore_index=3, label_smoothing=0.2, reduction=reduction
        )
        value, pullback = entropic.vjp(
            entropic.cross_entropy, x, t, weight=w, ignore_index=3, label_smoothing=0.2, reduction=reduction, axis=1
        )
        g = rng.normal(size=np.shape(value))
        expected.backward(torch.tensor(g, dtype=torch.float64))
        np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-12)
        np.testing.assert_allclose(pullback(g)[0], tensor.grad.numpy(), atol=1e-13)


def test_cross_entropy_edges(rng):
    x = rng.normal(size=(3, 4))
    assert math.isnan(entropic.cross_entropy(x, [-100] * 3))
    assert entropic.cross_entropy(x, [-100] * 3, reduction="sum") == 0
    np.testing.assert_array_equal(entropic.vjp(entropic.cross_entropy, x, [-100] * 3)[1](1.0)[0], 0)
    assert math.isnan(entropic.cross_entropy(np.zeros((0, 4)), np.zeros(0, int)))
    assert entropic.cross_entropy(np.zeros((0, 4)), np.zeros(0, int), reduction="none").shape == (0,)
    assert entropic.cross_entropy(np.zeros((2, 1)), [0, 0]) == 0
    assert entropic.cross_entropy(np.array([[0, -INF]]), [1]) == INF
    nan = np.array([[NAN, 0.0], [0.0, 0.0]])
    assert math.isnan(entropic.cross_entropy(nan, [0, 1]))
    assert entropic.cross_entropy(nan, [-100, 1]) == pytest.approx(np.log(2))
    np.testing.assert_array_equal(entropic.vjp(entropic.cross_entropy, nan, [-100, 1])[1](1.0)[0][0], 0)
    np.testing.assert_array_equal(entropic.vjp(entropic.cross_entropy, np.full((1, 3), -INF), [0])[1](1.0)[0], 0)
    assert entropic.cross_entropy(x.astype(np.float16), [0, 1, 2]).dtype == np.float32
    assert entropic.cross_entropy(np.array([[-INF, 0.0, 0.0]]), np.array([[0.0, 0.5, 0.5]])) == pytest.approx(np.log(2))
    for options, kind, message in [
        ({"targets": [0, 1, 4]}, ValueError, r"`targets` must be in \[0, 4\) or ignore_index=-100, got 4"),
        ({"targets": [0, 1]}, ValueError, r"`targets` must have shape \(3,\)"),
        ({"targets": np.zeros((3, 3))}, ValueError, "soft `targets` must have the shape of the logits"),
        ({"targets": np.full((3, 4), -0.1)}, ValueError, "soft `targets` must be finite and not negative"),
        ({"label_smoothing": 1.5}, ValueError, r"`label_smoothing` must be in \[0, 1\]"),
        ({"reduction": "max"}, ValueError, "`reduction` must be one of 'mean', 'sum', 'none'"),
        ({"weight": np.ones(3)}, ValueError, r"`weight` must be real of shape \(4,\)"),
        ({"weight": -np.ones(4)}, ValueError, "`weight` must be finite and not negative"),
        ({"softcap": 0}, ValueError, "`softcap` must be positive and finite"),
    ]:
        with pytest.raises(kind, match=message):
            entropic.cross_entropy(x, **{"targets": [0, 1, 2], **options})


# ---- linear forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_linear_forms_are_those_of_the_logits(dtype, rng, monkeypatch):
    from entropic.logits import _linear

    monkeypatch.setattr(_linear, "_TILE_BYTES", 5000)  # several tiles, and parts of the vocabulary
    monkeypatch.setattr(_linear, "_PART_BYTES", 1000)
    hidden, weight = rng.normal(size=(2, 11, 6)).astype(dtype), rng.normal(size=(120, 6)).astype(dtype)
    bias, t = rng.normal(size=120).astype(dtype), rng.integers(0, 120, (2, 11))
    logits = 4 * np.tanh((hidden.astype(float) @ weight.astype(float).T + bias.astype(float)) / 4)
    tolerance = 1e-12 if dtype == np.float64 else 3e-6
    for options in ({}, {"temperature": 0.5}, {"top_k": 9}, {"temperatures": (0.5, 2.0), "top_p": 0.7}):
        stats = entropic.linear_logit_stats(hidden, weight, t, bias=bias, softcap=4.0, **options)
        plain = entropic.logit_stats(logits, t, **options)
        for field in ("logsumexp", "entropy", "logprob", "max_prob", "varentropy"):
            np.testing.assert_allclose(getattr(stats, field), getattr(plain, field), rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(stats.argmax, plain.argmax)
    t[0, 3] = -100
    for reduction in ("mean", "sum", "none"):
        loss = entropic.linear_cross_entropy(
            hidden, weight, t, bias=bias, softcap=4.0, reduction=reduction, label_smoothing=0.1
        )
        expected = entropic.cross_entropy(logits, t, reduction=reduction, label_smoothing=0.1)
        np.testing.assert_allclose(loss, expected, rtol=tolerance, atol=tolerance)


def test_linear_gradients(rng, monkeypatch):
    from entropic.logits import _linear

    monkeypatch.setattr(_linear, "_TILE_BYTES", 1000)
    hidden, weight, bias, t = (
        rng.normal(size=(7, 3)),
        rng.normal(size=(12, 3)),
        rng.normal(size=12),
        rng.integers(0, 12, 7),
    )
    t[2] = -100
    class_weight = rng.random(12)
    for options in (
        {},
        {"reduction": "none", "softcap": 2.0},
        {"reduction": "sum", "label_smoothing": 0.2, "class_weight": class_weight},
        {"filter_eps": 1e-300},
    ):
        check_gradient(entropic.linear_cross_entropy, (hidden, weight, t), (0, 1), **options)

        def by_bias(b, options=options):
            return entropic.linear_cross_entropy(hidden, weight, t, bias=b, **options)

        value, pullback = entropic.vjp(
            entropic.linear_cross_entropy, hidden, weight, t, bias=bias, wrt="bias", **options
        )
        g = rng.normal(size=np.shape(value))
        grads = pullback(g)
        assert grads[2] is None
        np.testing.assert_allclose(grads[3], reference.finite_difference(by_bias, bias, g, 1e-6), atol=1e-7)
    loose = entropic.vjp(entropic.linear_cross_entropy, hidden, weight, t, filter_eps=1e-2)[1](1.0)
    exact = entropic.vjp(entropic.linear_cross_entropy, hidden, weight, t)[1](1.0)
    assert 0 < np.abs(loose[1] - exact[1]).max() < 0.05

    t = np.abs(t)
    _, pullback = entropic.vjp(entropic.linear_logit_stats, hidden, weight, t % 12, temperature=0.7, softcap=2.0)
    grads = pullback({"entropy": 1.0, "logprob": 0.5})

    def total(h, w):
        stats = entropic.linear_logit_stats(h, w, t % 12, temperature=0.7, softcap=2.0)
        return stats.entropy + 0.5 * stats.logprob

    one = np.ones(7)
    np.testing.assert_allclose(
        grads[0], reference.finite_difference(lambda h: total(h, weight), hidden, one), atol=1e-7
    )
    np.testing.assert_allclose(
        grads[1], reference.finite_difference(lambda w: total(hidden, w), weight, one), atol=1e-7
    )


def test_linear_shards_and_types(rng):
    hidden, weight, t = rng.normal(size=(5, 8)), rng.normal(size=(60, 8)), rng.integers(0, 60, 5)
    whole = entropic.linear_logit_stats(hidden, weight, t)
    shards = [entropic.linear_logit_stats(hidden, weight[i : i + 20], t, offset=i) for i in (40, 0, 20)]
    merged = entropic.LogitStats.merge(*shards)
    for field in ("logsumexp", "entropy", "logprob", "varentropy"):
        np.testing.assert_allclose(getattr(merged, field), getattr(whole, field), rtol=1e-12)
    np.testing.assert_array_equal(merged.argmax, whole.argmax)
    half = weight.astype(ml_dtypes.bfloat16)
    grads = entropic.vjp(entropic.linear_cross_entropy, hidden.astype(np.float32), half, t)[1](1.0)
    assert [g.dtype for g in grads[:2]] == [np.float32, ml_dtypes.bfloat16]
    for args, message in [
        ((hidden, weight[:, :5], t), r"`hidden` must have shape \(..., 5\) as `weight` has, got \(5, 8\)"),
        ((hidden, weight[0], t), r"`weight` must have shape \(categories, features\)"),
        ((hidden, weight, t[:3]), r"`targets` must have shape \(5,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            entropic.linear_cross_entropy(*args)
    with pytest.raises(ValueError, match=r"`bias` must have shape \(60,\), got \(8,\)"):
        entropic.linear_logit_stats(hidden, weight, bias=np.zeros(8))
    with pytest.raises(ValueError, match="`filter_eps` must be finite and not negative"):
        entropic.linear_cross_entropy(hidden, weight, t, filter_eps=-1.0)
    empty = entropic.linear_logit_stats(np.zeros((0, 8)), weight)
    assert empty.entropy.shape == (0,)


# ---- attention -------------------------------------------------------------------------------------------------------


def plain_attention_entropy(q, k, causal=False, mask=None, lengths=None, scale=None):
    z = q @ np.swapaxes(k, -1, -2) * (1 / np.sqrt(q.shape[-1]) if scale is None else scale)
    n, m = z.shape[-2:]
    seen = np.ones(z.shape, bool)
    if causal:
        seen &= np.arange(m) <= np.arange(n)[:, None] + m - n
    if mask is not None:
        seen &= mask
    if lengths is not None:
        seen &= np.arange(m) < lengths.reshape(lengths.shape + (1,) * (z.ndim - lengths.ndim))
    p = np.where(seen, np.exp(z - z.max(axis=-1, keepdims=True)), 0)
    p = p / np.maximum(p.sum(axis=-1, keepdims=True), 1e-300)
    return scipy.special.entr(p).sum(axis=-1)


@pytest.mark.parametrize("shape", [(2, 3, 5, 5, 4), (1, 2, 300, 700, 8), (2, 2, 9, 4, 3), (1, 1, 1, 1, 1)])
def test_attention_entropy(shape, rng, monkeypatch):
    from entropic.logits import _attention

    monkeypatch.setattr(_attention, "CHUNK_BYTES", 300_000)
    b, h, n, m, d = shape
    q, k = rng.normal(size=(b, h, n, d)), rng.normal(size=(b, h, m, d))
    lengths, mask = rng.integers(0, m + 1, b), rng.random((h, n, m)) < 0.7
    for causal in (False, True):
        for allowed in (None, mask):
            for counts in (None, lengths):
                got = entropic.attention_entropy(q, k, causal=causal, mask=allowed, lengths=counts)
                expected = plain_attention_entropy(q, k, causal, allowed, counts)
                np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-12)
    narrow = entropic.attention_entropy(q.astype(np.float16), k.astype(np.float16))
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, plain_attention_entropy(q, k), atol=2e-2)


def test_attention_entropy_edges(rng):
    q, k = rng.normal(size=(2, 3, 6, 4)), rng.normal(size=(2, 1, 7, 4))
    shared = entropic.attention_entropy(q, k, scale=0.3, base=2)  # one head of keys for three of queries
    np.testing.assert_allclose(shared, plain_attention_entropy(q, k, scale=0.3) / np.log(2), rtol=1e-12)
    equal = np.zeros((6, 4))
    np.testing.assert_allclose(entropic.attention_entropy(equal, equal, causal=True), np.log(np.arange(1, 7)))
    np.testing.assert_array_equal(entropic.attention_entropy(q, k, lengths=np.zeros(2, int)), 0)
    assert entropic.attention_entropy(np.zeros((0, 4)), np.zeros((5, 4))).shape == (0,)
    np.testing.assert_array_equal(entropic.attention_entropy(np.zeros((3, 4)), np.zeros((0, 4))), 0)
    check_gradient(entropic.attention_entropy, (q, k), (0, 1), causal=True)
    check_gradient(entropic.attention_entropy, (q, k), (0, 1), lengths=np.array([7, 2]), base=2)
    check_gradient(entropic.attention_entropy, (q, k), (0, 1), mask=rng.random((6, 7)) < 0.6)
    grads = entropic.vjp(entropic.attention_entropy, q, k, lengths=np.zeros(2, int))[1](1.0)
    assert all((g == 0).all() for g in grads)
    for args, options, message in [
        ((q[0, 0, 0], k), {}, r"`q` must have shape \(..., length, d\)"),
        ((q, k[..., :3]), {}, "`q` and `k` must have one d"),
        ((q, rng.normal(size=(3, 1, 7, 4))), {}, "leading axes of `q` and `k` do not broadcast"),
        ((q, k), {"lengths": np.array([8, 0])}, "`lengths` must be between 0 and the number of keys 7"),
        ((q, k), {"lengths": np.array([1, 2, 3])}, "`lengths` must have the shape of leading axes"),
        ((q, k), {"mask": np.ones((5, 7), bool)}, "`mask` of shape"),
        ((q, k), {"scale": INF}, "`scale` must be a number of at most 1e30"),
    ]:
        with pytest.raises(ValueError, match=message):
            entropic.attention_entropy(*args, **options)


# ---- divergences -----------------------------------------------------------------------------------------------------

DIVERGENCES = [
    ("kl", None), ("reverse_kl", None), ("js", None), ("jeffreys", None),
    ("renyi", 0.3), ("renyi", 0.999), ("renyi", 2.0), ("renyi", 7.5), ("renyi", INF),
    ("alpha", -1.5), ("alpha", 0.3), ("alpha", 2.0),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "order"), DIVERGENCES)
def test_divergence(kind, order, rng):
    for apart in (1e-10, 1e-6, 1e-2, 1.0, 20.0):
        x = 100 + 3 * rng.normal(size=30)
        y = x + apart * rng.normal(size=30)
        exact = reference.divergence(x, y, kind, order)
        got = entropic.divergence(x, y, kind, order=order)
        # a logarithm's 1e-16 is divided by 1 - order, and the shift's, 1e-14 here, counts against `apart`
        bound = 1e-10 if order == 0.999 else 1e-12
        assert reference.relative_error(got, exact) < max(bound, 1e-15 / apart), (apart, float(got), exact)
    x, y = rng.normal(size=(3, 5)), rng.normal(size=5)
    check_gradient(entropic.divergence, (x, y), (0, 1), kind=kind, order=order)
    np.testing.assert_allclose(entropic.divergence(x, x + 4, kind, order=order), 0, atol=1e-15)


def hard_pairs(rng):
    """Rows where a divergence is made of few, small or missing masses."""
    none = -INF
    for n in (3, 8, 40):
        x, step = rng.normal(size=n) * 3, rng.normal(size=n)
        far = np.eye(n)[0]
        yield "one mass of exp(-200) grows", x - 200 * far, x + 60 * far
        yield "all but one are equal", x, x - 50 * far
        yield "rows far apart", x, x + 1000 + 1e-3 * step
        yield "certain", x * 40, rng.normal(size=n) * 40
        yield "masses below the range", x - 1500 * far, x - 900 * np.eye(n)[1]
        yield "q lacks one", x, np.where(far, none, x + step)
        yield "p lacks one", np.where(far, none, x), x + step
        yield "both lack one", np.where(far, none, x), np.where(far, none, x + 1e-5 * step)
        yield "each lacks one", np.where(far, none, x), np.where(np.eye(n)[1], none, x + step)
        yield "nothing in common", np.where(np.arange(n) < 2, none, x), np.where(np.arange(n) < 2, x, none)
    yield "one category", np.array([3.0]), np.array([-5.0])


@pytest.mark.parametrize(("kind", "order"), [*DIVERGENCES, ("renyi", 30.0), ("alpha", 0.01)])
def test_divergence_of_hard_pairs(kind, order, isa, rng):
    for name, x, y in hard_pairs(rng):
        exact = reference.divergence(x, y, kind, order)
        got = float(entropic.divergence(x, y, kind, order=order))
        if mpmath.isinf(exact) or exact > mpmath.mpf("1e308"):
            assert got == INF, (name, got, exact)
        elif exact == 0:
            assert got == 0, name
        else:
            # a sum is near 1 where 1 - order is small
            bound = 1e-10 if order in (0.999, 0.01) or name == "rows far apart" else 1e-12
            assert reference.relative_error(got, exact) < bound, (name, got, exact)


def test_divergence_of_undefined_rows():
    x = np.array([[0.0, 1, 2], [NAN, 0, 0], [INF, 0, 0], [-INF, -INF, -INF], [0, 0, 0]])
    for kind, order in DIVERGENCES:
        for got in (entropic.divergence(x, x[:1], kind, order=order), entropic.divergence(x[:1], x, kind, order=order)):
            np.testing.assert_array_equal(np.isnan(got), [False, True, True, True, False])
    assert entropic.divergence(np.zeros((0, 4)), np.zeros(4)).shape == (0,)


def test_sums_of_rows_have_the_same_bits_for_any_thread_count(rng):
    """Divergences, soft and smoothed losses, marginal entropies of wide, narrow and strided arrays."""

    def results():
        for shape in ((3, 70001), (40, 5000), (30000, 7)):
            x, y = (np.random.default_rng(seed).normal(size=shape) for seed in (0, 1))
            yield entropic.divergence(x, y, "js")
            yield entropic.marginal_entropy(x[:, ::-1].astype(np.float32))
            yield entropic.cross_entropy(x, np.abs(y), label_smoothing=0.1, weight=np.abs(y[0]), reduction="none")

    with entropic.num_threads(1):
        first = list(results())
    for threads in (2, 3, 5):
        with entropic.num_threads(threads):
            for got, wanted in zip(results(), first, strict=True):
                np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("dtype", [*FLOATS, np.float16, ml_dtypes.bfloat16, np.int16])
def test_soft_targets_of_any_layout(dtype, isa, rng):
    """Every width around a pack's, views of every kind, targets in another type, against the formula."""
    for n in (1, 2, 7, 8, 15, 16, 17, 33, 1500):
        x = (rng.normal(size=(2 * n, 6)) * 3).astype(dtype)[::-2].T
        q = np.asfortranarray(rng.random((6, n)).astype(np.float32))
        q[q < 0.3] = 0
        weight = rng.random(n)
        log_p = scipy.special.log_softmax(x.astype(np.float64), axis=1)
        for smoothing in (0.0, 0.2):
            shares = (q.astype(np.float64) * (1 - smoothing) + smoothing / n) * weight
            got = entropic.cross_entropy(x, q, weight=weight, label_smoothing=smoothing, reduction="none")
            np.testing.assert_allclose(got.astype(np.float64), -(shares * log_p).sum(axis=1), rtol=TOLERANCE[dtype])
        mean = np.exp(log_p).mean(axis=0)
        entropy = entropic.marginal_entropy(x)
        np.testing.assert_allclose(
            float(entropy), scipy.special.entr(mean).sum(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
        )


def test_divergence_limits(rng):
    x, y = rng.normal(size=(4, 6)), rng.normal(size=(4, 6))
    kl, reverse = entropic.divergence(x, y), entropic.divergence(x, y, "reverse_kl")
    p, q = scipy.special.softmax(x, axis=1), scipy.special.softmax(y, axis=1)
    np.testing.assert_allclose(kl, scipy.special.rel_entr(p, q).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(reverse, entropic.divergence(y, x), rtol=1e-13)
    np.testing.assert_array_equal(entropic.divergence(x, y, "renyi", order=1), kl)
    np.testing.assert_array_equal(entropic.divergence(x, y, "alpha", order=0), reverse)
    np.testing.assert_allclose(entropic.divergence(x, y, "renyi", order=1 + 1e-7), kl, rtol=1e-5)
    np.testing.assert_allclose(entropic.divergence(x, y, base=2), kl / np.log(2))
    assert (entropic.divergence(x * 100, y * 100, "js") <= np.log(2)).all()
    np.testing.assert_allclose(entropic.divergence(x.T, y.T, axis=0), kl)
    assert entropic.divergence(x.astype(np.float32), y.astype(np.float32)).dtype == np.float32
    # where one has no mass
    i = -INF
    a, b = np.array([[0.0, 0, i]]), np.array([[0.0, 0, 0]])
    np.testing.assert_allclose(entropic.divergence(a, b), np.log(1.5))
    np.testing.assert_array_equal(entropic.divergence(b, a), INF)
    np.testing.assert_array_equal(entropic.divergence(a, b, "reverse_kl"), INF)
    half = entropic.divergence(np.array([0, i]), np.array([i, 0]), "js", base=2)
    assert half == pytest.approx(1)
    assert entropic.divergence(np.array([0, 0, i]), np.array([0, 0, i]), "jeffreys") == 0
    for args, options, kind, message in [
        ((x, y, "hellinger"), {}, ValueError, "`kind` must be one of 'kl'"),
        ((x, y, "renyi"), {}, ValueError, "kind 'renyi' needs an `order`"),
        ((x, y), {"order": 2}, ValueError, '`order` belongs to kinds "renyi" and "alpha"'),
        ((x, y, "renyi"), {"order": -1}, ValueError, "`order` must be positive"),
        ((x, y, "alpha"), {"order": 2, "base": 2}, ValueError, "`base` has no meaning"),
        ((x, y[:, :5]), {}, ValueError, "do not broadcast"),
        ((x, y[:, :1]), {}, ValueError, "as many categories"),
    ]:
        with pytest.raises(kind, match=message):
            entropic.divergence(*args, **options)


# ---- other entropies -------------------------------------------------------------------------------------------------

ENTROPIES = [
    ("renyi", 0.3), ("renyi", 0.999), ("renyi", 1.0), ("renyi", 2.0), ("renyi", 20.0),
    ("tsallis", 0.5), ("tsallis", 1.0), ("tsallis", 3.0), ("min", None), ("quadratic", None), ("binary", None),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "order"), ENTROPIES)
def test_row_entropy(kind, order, rng):
    for row in (rng.normal(size=40) * 3, np.r_[rng.normal(size=9), 30], np.zeros(5), np.array([1e4, -1e4])):
        got = entropic.row_entropy(row, kind, order=order)
        exact = reference.row_entropy(row, kind, order)
        assert reference.relative_error(got, exact) < (1e-10 if order == 0.999 else 1e-12) or exact < 1e-300
    x = rng.normal(size=(2, 3, 6))
    check_gradient(entropic.row_entropy, (x,), kind=kind, order=order, axis=1)
    np.testing.assert_array_equal(entropic.row_entropy(np.full((2, 3), -INF), kind, order=order), 0)


def test_row_entropy_near_order_one(rng):
    x = rng.normal(size=20)
    for off in (1e-3, 1e-5, 9e-7, 1e-7, 1e-9, -1e-7):
        for kind in ("renyi", "tsallis"):
            exact = reference.row_entropy(x, kind, mpmath.mpf(1) + off)
            assert reference.relative_error(entropic.row_entropy(x, kind, order=1 + off), exact) < 1e-9
    for options, message in [
        ({"kind": "shannon"}, "`kind` must be one of 'renyi'"), ({}, "kind 'renyi' needs an `order`"),
        ({"order": 0}, "`order` must be positive"), ({"kind": "min", "order": 2}, "`order` belongs to"),
        ({"kind": "quadratic", "base": 2}, "`base` has no meaning"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            entropic.row_entropy(x, **options)


def test_marginal_entropy(rng):
    y = rng.normal(size=(3, 4, 5)) * 3
    p = scipy.special.softmax(y, axis=-1)
    for over, axes in ((None, (0, 1)), (0, 0), (1, 1), ((0, 1), (0, 1))):
        expected = scipy.special.entr(p.mean(axis=axes)).sum(axis=-1)
        np.testing.assert_allclose(entropic.marginal_entropy(y, over=over), expected, rtol=1e-13)
        check_gradient(entropic.marginal_entropy, (y,), over=over)
    moved = entropic.marginal_entropy(np.moveaxis(y, -1, 0), axis=0, over=2, base=2)
    np.testing.assert_allclose(moved, scipy.special.entr(p.mean(axis=1)).sum(axis=-1) / np.log(2), rtol=1e-13)
    one = rng.normal(size=(1, 6))
    assert entropic.marginal_entropy(one) == pytest.approx(entropic.softmax_entropy(one)[0])
    certain = np.zeros((2, 3))
    certain[:, 0] = 60
    assert entropic.marginal_entropy(certain) == pytest.approx(entropic.softmax_entropy(certain)[0], rel=1e-9)
    with pytest.raises(ValueError, match="`over` must not hold the axis of the categories"):
        entropic.marginal_entropy(y, over=2)
    with pytest.raises(ValueError, match="there is no row to average over"):
        entropic.marginal_entropy(np.zeros((0, 3)))


@pytest.mark.parametrize("step", ["policy", "logit"])
def test_entropy_change(step, rng):
    x, t = rng.normal(size=(4, 6)) * 2, np.array([0, 5, 2, 2])
    move = np.eye(6)[t] - (scipy.special.softmax(x, axis=1) if step == "policy" else 0)
    e = 1e-5
    numeric = (entropic.softmax_entropy(x + e * move) - entropic.softmax_entropy(x - e * move)) / (2 * e)
    np.testing.assert_allclose(entropic.entropy_change(x, t, step=step), numeric, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        entropic.entropy_change(x.T, t, step=step, axis=0, base=2), numeric / np.log(2), rtol=1e-6
    )
    check_gradient(entropic.entropy_change, (x, t), step=step)
    p = scipy.special.softmax(x, axis=1)
    entropy = entropic.softmax_entropy(x)
    moves = np.stack([entropic.entropy_change(x, np.full(4, j), step="logit") for j in range(6)], axis=1)
    mean = entropy * (p**2).sum(axis=1) + (p**2 * np.log(p)).sum(axis=1)
    np.testing.assert_allclose(-(p * moves).sum(axis=1), mean, rtol=1e-10, atol=1e-14)
    np.testing.assert_array_equal(entropic.entropy_change(np.full((1, 3), -INF), [1], step=step), 0)
    with pytest.raises(ValueError, match="`step` must be one of 'policy', 'logit'"):
        entropic.entropy_change(x, t, step="both")
    with pytest.raises(ValueError, match=r"`targets` must be in \[0, 6\)"):
        entropic.entropy_change(x, np.full(4, 6))


def plain_semantic_entropy(log_p, ids, kind):
    clusters = sorted(set(ids))
    mass = np.array([np.exp(log_p[ids == c]).sum() for c in clusters])
    if kind == "count":
        mass = np.array([(ids == c).sum() for c in clusters], float)
    p = mass / mass.sum()
    if kind == "monte_carlo":
        return -np.mean([np.log(p[clusters.index(c)]) for c in ids])
    return scipy.special.entr(p).sum()


@pytest.mark.parametrize("kind", ["mass", "count", "monte_carlo"])
def test_semantic_entropy(kind, rng):
    log_p, ids = rng.normal(size=12), rng.integers(-2, 2, 12)
    groups, lengths = np.array([0, 0, 0, 0, 1, 1, 1, 3, 3, 3, 3, 3]), rng.integers(1, 9, 12)
    assert entropic.semantic_entropy(log_p, ids, kind=kind) == pytest.approx(plain_semantic_entropy(log_p, ids, kind))
    several = entropic.semantic_entropy(log_p, ids, kind=kind, groups=groups, lengths=lengths, base=2)
    for g in (0, 1, 3):
        mine = groups == g
        expected = plain_semantic_entropy((log_p / lengths)[mine], ids[mine], kind) / np.log(2)
        assert several[g] == pytest.approx(expected, abs=1e-14)
    assert several[2] == 0
    order = rng.permutation(12)
    shuffled = entropic.semantic_entropy(log_p[order], ids[order], kind=kind, groups=groups[order])
    np.testing.assert_allclose(
        shuffled, entropic.semantic_entropy(log_p, ids, kind=kind, groups=groups), rtol=1e-12, atol=1e-15
    )
    assert entropic.semantic_entropy(log_p, np.zeros(12, int), kind=kind) == pytest.approx(0, abs=1e-15)
    far = entropic.semantic_entropy(log_p - 2000, ids, kind=kind)
    assert far == pytest.approx(entropic.semantic_entropy(log_p, ids, kind=kind), rel=1e-10)
    check_gradient(entropic.semantic_entropy, (log_p, ids), kind=kind, groups=groups, lengths=lengths)
    gone = entropic.semantic_entropy(np.full(3, -INF), [0, 1, 2], kind=kind)
    assert gone == pytest.approx(np.log(3) if kind == "count" else 0)
    for args, options, message in [
        ((log_p, ids[:3]), {}, r"`cluster_ids` must have shape \(12,\)"),
        ((np.zeros(0), np.zeros(0, int)), {}, "at least one"),
        ((np.full(12, NAN), ids), {}, "must not hold nan or inf"),
        ((log_p, ids), {"lengths": np.zeros(12)}, "`lengths` must be positive"),
        ((log_p, ids), {"groups": np.full(12, -1)}, "`groups` must not be negative"),
    ]:
        with pytest.raises(ValueError, match=message):
            entropic.semantic_entropy(*args, **options)


def test_soft_nearest_entropy(rng):
    s, w = rng.normal(size=(2, 5, 5)), rng.random((2, 5))
    z = s / 0.7
    expected = [-np.mean([np.log(np.exp(np.delete(row, i)).sum()) for i, row in enumerate(m)]) for m in z]
    np.testing.assert_allclose(entropic.soft_nearest_entropy(s, 0.7), expected, rtol=1e-12)
    full = -(w * scipy.special.logsumexp(z, axis=-1)).sum(axis=-1)
    np.testing.assert_allclose(entropic.soft_nearest_entropy(s, 0.7, weights=w, diagonal=True), full, rtol=1e-12)
    for options in ({}, {"weights": w}, {"diagonal": True}):
        check_gradient(entropic.soft_nearest_entropy, (s, 0.7), **options)
    with pytest.raises(ValueError, match=r"`similarity` must have shape \(..., n, n\)"):
        entropic.soft_nearest_entropy(s[:, :3])
    with pytest.raises(ValueError, match="there must be at least two samples"):
        entropic.soft_nearest_entropy(np.zeros((1, 1)))


# ---- contrast, bounds, rankings --------------------------------------------------------------------------------------


def test_info_nce(rng):
    s = rng.normal(size=(4, 6))
    log_p = scipy.special.log_softmax(s / 0.3, axis=1)
    assert entropic.info_nce(s, temperature=0.3) == pytest.approx(-np.diag(log_p).mean())
    given_ids = entropic.info_nce(s, [5, 0, 1, 1], temperature=0.3, reduction="none")
    np.testing.assert_allclose(given_ids, -log_p[range(4), [5, 0, 1, 1]], rtol=1e-12)
    mask = rng.random((4, 6)) < 0.5
    mask[:, 0] = True
    expected = -np.mean([row[m].mean() for row, m in zip(log_p, mask, strict=True)])
    assert entropic.info_nce(s, mask, temperature=0.3) == pytest.approx(expected)
    weights = rng.random((4, 6))
    weighted = scipy.special.log_softmax(s + np.log(weights), axis=1)
    assert entropic.info_nce(s, log_weights=np.log(weights)) == pytest.approx(-np.diag(weighted).mean())
    own = np.where(np.eye(4, 6) > 0, -INF, s)
    assert np.isfinite(entropic.info_nce(own, [1, 0, 3, 2]))
    for arrays, options in (
        ((s,), {}), ((s, np.array([5, 0, 1, 1])), {"temperature": 0.3, "reduction": "none"}),
        ((s, mask), {"temperature": 0.3}), ((s,), {"log_weights": np.log(weights)}),
    ):  # fmt: skip
        check_gradient(entropic.info_nce, arrays, **options)
    for args, options, message in [
        ((s[0],), {}, "must have shape"), ((s.T,), {}, "`positives` is needed"),
        ((s, [6, 0, 0, 0]), {}, r"`positives` must be in \[0, 6\)"), ((s,), {"temperature": 0}, "`temperature`"),
        ((s, np.zeros((4, 6), bool)), {}, "row 0 of `positives` has none"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            entropic.info_nce(*args, **options)


def test_bounds_on_gaussian_pairs(rng):
    """With the exact log-ratio as critic both bounds are tight, and InfoNCE is below log K."""
    n, r = 200000, 0.8
    x = rng.normal(size=n)
    y = r * x + np.sqrt(1 - r**2) * rng.normal(size=n)
    exact = -0.5 * np.log1p(-(r**2))

    def critic(a, b):
        return exact - (r**2 * (a**2 + b**2) - 2 * r * a * b) / (2 * (1 - r**2))

    joint, product = critic(x, y), critic(x, rng.permutation(y))
    assert entropic.donsker_varadhan(joint, product) == pytest.approx(exact, abs=0.02)
    assert entropic.nwj(joint + 1, product + 1) == pytest.approx(exact, abs=0.03)
    loss = entropic.info_nce(critic(x[:500, None], y[None, :500]))
    assert 0.3 < np.log(500) - loss < min(exact + 0.1, np.log(500))
    big = np.array([1000.0, 0.0])
    assert entropic.donsker_varadhan(big, big) == pytest.approx(500 - 1000 + np.log(2))
    assert entropic.nwj(big, big) == -INF
    for f in (entropic.donsker_varadhan, entropic.nwj):
        check_gradient(f, (rng.normal(size=(3, 2)), rng.normal(size=5)), (0, 1))
        with pytest.raises(ValueError, match="`scores_product` must not be empty"):
            f([1.0], [])


def test_plackett_luce(rng):
    s = rng.normal(size=(2, 6)) * 3
    full = np.argsort(rng.random((2, 6)), axis=-1)
    for ranking in (full, full[:, :3], full[:, :0]):
        expected = [
            -sum(np.log(np.exp(row[o[i]]) / (np.exp(row).sum() - np.exp(row[o[:i]]).sum())) for i in range(len(o)))
            for row, o in zip(s, ranking, strict=True)
        ]
        np.testing.assert_allclose(entropic.plackett_luce_nll(s, ranking), expected, rtol=1e-10, atol=1e-14)
        check_gradient(entropic.plackett_luce_nll, (s, ranking))
    total = sum(
        np.exp(-entropic.plackett_luce_nll(s[0, :3], order))
        for order in ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])
    )
    assert total == pytest.approx(1)
    sure = entropic.plackett_luce_nll([80.0, 40.0, 0.0], [0, 1, 2])
    assert sure == pytest.approx(2 * np.exp(-40.0), rel=1e-12)
    for ranking, kind, message in [
        ([0, 0], ValueError, "names an item twice"), ([0, 3], ValueError, r"must be in \[0, 3\)"),
        ([0.0, 1.0], TypeError, "must be integers"), ([0, 1, 2, 2], ValueError, "or a shorter last axis"),
    ]:  # fmt: skip
        with pytest.raises(kind, match=message):
            entropic.plackett_luce_nll([1.0, 2.0, 3.0], ranking)


# ---- devices and libraries -------------------------------------------------------------------------------------------


def test_results_come_in_the_callers_library(rng):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(rng.normal(size=(3, 40)).astype(np.float32))
    stats = entropic.logit_stats(x.bfloat16(), torch.tensor([0, 1, 2]))
    assert isinstance(stats.entropy, torch.Tensor)
    assert stats.entropy.dtype == torch.float32
    assert stats.argmax.dtype == torch.int64
    torch.testing.assert_close(
        entropic.cross_entropy(x, torch.tensor([0, 1, 2]), reduction="none"),
        torch.nn.functional.cross_entropy(x, torch.tensor([0, 1, 2]), reduction="none"),
    )
    with pytest.raises(TypeError, match="`logits` is a torch array but `targets` is a numpy array"):
        entropic.logit_stats(x, np.zeros(3, int))


# ---- what broke once -------------------------------------------------------------------------------------------------


def test_marginal_entropy_counts_rows_without_mass_as_zeros():
    row, none = np.log([[0.7, 0.3]]), np.full((1, 2), -INF)
    for empty in (1, 2, 3):
        p = np.array([0.7, 0.3]) / (1 + empty)
        z = np.vstack([row, *[none] * empty])
        assert entropic.marginal_entropy(z) == pytest.approx(-(p * np.log(p)).sum(), rel=1e-14)
    assert entropic.marginal_entropy(np.array([[0, -INF], [-INF, -INF]])) == pytest.approx(np.log(2) / 2)
    (grad,) = entropic.vjp(entropic.marginal_entropy, np.vstack([row, none]))[1](1.0)
    step = 1e-6 * np.array([[1.0, -2.0], [0, 0]])
    z = np.vstack([row, none])
    slope = (entropic.marginal_entropy(z + step) - entropic.marginal_entropy(z - step)) / 2
    assert (grad * step).sum() == pytest.approx(slope, rel=1e-6)


def test_one_row_that_is_not_adjacent():
    x, y = np.arange(5.0), np.arange(5.0) ** 2
    mask = np.array([True, False] * 5)
    for function, arrays, options in [
        (entropic.divergence, (x, y), {}),
        (entropic.row_entropy, (x, "binary"), {}),
        (entropic.row_entropy, (x,), {"order": 2}),
        (entropic.marginal_entropy, (x,), {}),
        (entropic.entropy_change, (x, 1), {}),
        (entropic.cross_entropy, (x, 1), {"label_smoothing": 0.1}),
        (entropic.cross_entropy, (x, y / y.sum()), {}),
    ]:
        turned = tuple(a[::-1].copy()[::-1] if isinstance(a, np.ndarray) else a for a in arrays)
        assert not turned[0].flags.c_contiguous
        np.testing.assert_array_equal(function(*turned, **options), function(*arrays, **options))
        got, wanted = (entropic.vjp(function, *given, **options)[1](1.0) for given in (turned, arrays))
        np.testing.assert_array_equal(got[0], wanted[0])
    reverse = x[::-1].copy()[::-1]
    for options in ({"mask": mask[::2]}, {"top_k": 2}, {"top_k": 2, "temperatures": (1.0, 2.0)}):
        got, wanted = (entropic.logit_stats(given, **options).entropy for given in (reverse, x))
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(
        entropic.vjp(entropic.logit_stats, reverse)[1]({"entropy": 1.0})[0],
        entropic.vjp(entropic.logit_stats, x)[1]({"entropy": 1.0})[0],
    )


@pytest.mark.parametrize(("kind", "order"), [("renyi", 0.5), ("renyi", 1e-3), ("alpha", 0.01)])
def test_gradients_of_powers_of_probabilities_below_the_range(kind, order):
    for x, y in (([800.0, -800, 0], [-800.0, 800, 1]), ([0.0, -800], [0.0, 0]), ([0.0, -900, 1], [0.0, -30, 2])):
        x, y = np.array(x), np.array(y)
        grads = entropic.vjp(entropic.divergence, x, y, kind, order=order)[1](1.0)
        for which in range(2):
            for i in range(len(x)):
                step = 1e-5 * np.eye(len(x))[i]
                ends = [
                    entropic.divergence(x + s * step * (which == 0), y + s * step * (which == 1), kind, order=order)
                    for s in (1, -1)
                ]
                assert grads[which][i] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-9)


def test_gradient_of_tsallis_below_the_range():
    x, step = np.array([0.0, -800]), np.array([1e-4, 0])
    for order in (1e-3, 0.01):
        (grad,) = entropic.vjp(entropic.row_entropy, x, "tsallis", order=order)[1](1.0)
        ends = [entropic.row_entropy(x + s * step, "tsallis", order=order) for s in (1, -1)]
        assert grad[0] == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-5)
        assert grad.sum() == pytest.approx(0, abs=1e-12)


def test_gradients_of_large_logits_at_a_temperature(rng):
    for offset, size, temperature in ((1e4, 0.02, 0.01), (1e4, 1.0, 0.3), (1000, 3.0, 0.7)):
        z = (offset + size * rng.normal(size=(2, 99))).astype(np.float32)
        for field in ("logsumexp", "entropy", "logprob"):
            got, wanted = (
                entropic.vjp(entropic.logit_stats, a, [3, 4], temperature=temperature)[1]({field: 1.0})[0]
                for a in (z, z.astype(np.float64))
            )
            np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=1e-6 * np.abs(wanted).max())
    for dtype in FLOATS:
        z = np.full(3, 1e30, dtype)
        (grad,) = entropic.vjp(entropic.logit_stats, z, temperature=1e-10)[1]({"entropy": 1.0})
        np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize("kind", ["renyi", "tsallis"])
@pytest.mark.parametrize("apart", [2e-6, 1e-5, 1e-4, 1e-2, 0.2, 0.3])
def test_orders_near_one_in_float32(kind, apart, rng):
    z = rng.normal(size=(1, 1000)).astype(np.float32)
    for order in (1 - apart, 1 + apart):
        exact = reference.row_entropy(z[0], kind, order)
        assert reference.relative_error(entropic.row_entropy(z, kind, order=order)[0], exact) < 4e-7


def test_orders_at_the_ends_of_a_divergence():
    p, q = np.log([0.5, 0.3, 0.2]), np.log([0.1, 0.1, 0.8])
    for order in (1e-20, 1e-12, 1e-6, 1 - 1e-6, 1 - 1e-12, 1 + 1e-15):
        for kind in ("alpha", "renyi"):
            exact = reference.divergence(p, q, kind, order)
            assert reference.relative_error(entropic.divergence(p, q, kind, order=order), exact) < 1e-12
    for kind, order, limit in (("alpha", 1e-12, "reverse_kl"), ("renyi", 1 + 1e-12, "kl"), ("alpha", 1 - 1e-12, "kl")):
        got = entropic.vjp(entropic.divergence, p, q, kind, order=order)[1](1.0)
        for a, b in zip(got, entropic.vjp(entropic.divergence, p, q, limit)[1](1.0), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_gradients_of_bounds_for_large_scores():
    for dtype, high in ((np.float64, 1000.0), (np.float32, 100.0)):
        _, by_y = entropic.vjp(entropic.nwj, np.ones(1, dtype), np.array([high, 0], dtype))[1](1.0)
        assert by_y[0] == -INF
        assert by_y[1] == pytest.approx(-math.exp(-1) / 2, rel=1e-6)
    none = np.full(2, -INF)
    for bound in (entropic.donsker_varadhan, entropic.nwj):
        np.testing.assert_array_equal(entropic.vjp(bound, np.ones(1), none)[1](1.0)[1], 0)


def test_plackett_luce_far_from_zero(rng):
    s, ranking = rng.integers(-3, 4, 6).astype(float), rng.permutation(6)[:4]
    for offset in (1e15, -1e15, 2.0**33):
        shifted, exact = s + offset, s
        assert entropic.plackett_luce_nll(shifted, ranking) == pytest.approx(
            entropic.plackett_luce_nll(exact, ranking), rel=1e-14
        )
        np.testing.assert_allclose(
            entropic.vjp(entropic.plackett_luce_nll, shifted, ranking)[1](1.0)[0],
            entropic.vjp(entropic.plackett_luce_nll, exact, ranking)[1](1.0)[0], atol=1e-14,
        )  # fmt: skip
    i = -INF
    assert entropic.plackett_luce_nll([0, i], [0, 1]) == 0  # the last one is certain
    assert entropic.plackett_luce_nll([0, i], [1, 0]) == INF
    assert entropic.plackett_luce_nll([i, i], [0, 1]) == INF
    np.testing.assert_array_equal(entropic.vjp(entropic.plackett_luce_nll, np.array([i, i]), [0, 1])[1](1.0)[0], 0)
    assert np.isfinite(entropic.vjp(entropic.plackett_luce_nll, np.array([0, i, 1]), [2, 0])[1](1.0)[0]).all()


def test_scales_beyond_float32():
    single = np.zeros((2, 3), np.float32)
    for call, name in [
        (lambda x: entropic.cross_entropy(single, [0, 0], softcap=x), "softcap"),
        (lambda x: entropic.info_nce(single, temperature=x), "temperature"),
        (lambda x: entropic.soft_nearest_entropy(single[:, :2], x), "temperature"),
    ]:
        for x in (1e300, 1e-50):
            with pytest.raises(ValueError, match=f"`{name}` must be positive and finite"):
                call(x)
        assert np.isfinite(call(1e30))
        assert np.isfinite(call(1e-30))
    with pytest.raises(ValueError, match="`scale` must be a number of at most 1e30"):
        entropic.attention_entropy(single, single, scale=1e300)
    # quotients beyond the range
    assert entropic.info_nce(np.full((2, 3), 1e10, np.float32), temperature=1e-30) == pytest.approx(np.log(3))
    assert entropic.soft_nearest_entropy(np.full((3, 3), 2.0, np.float32), 1e-3) == pytest.approx(-2000 - np.log(2))
    near = np.float32(100) + np.array([[0, 0.001, 0.002]], np.float32)
    exact = reference.token_stats(near[0], 0.001, target=0)["logprob"]
    assert reference.relative_error(entropic.info_nce(near, [0], temperature=0.001), -exact) < 2e-7


def test_rows_that_are_undefined_or_without_mass():
    for step in ("policy", "logit"):
        for row in ([NAN, 0.0], [INF, 0.0]):
            for target in (0, 1):
                assert np.isnan(entropic.entropy_change(np.array(row), target, step=step))
    none = np.full((1, 3), -INF)
    np.testing.assert_array_equal(entropic.vjp(entropic.row_entropy, none, "min")[1](1.0)[0], 0)
    for grad in entropic.vjp(entropic.divergence, none, np.zeros((1, 3)))[1](1.0):
        np.testing.assert_array_equal(grad, 0)
    assert entropic.cross_entropy(none, [0], label_smoothing=0.1) == INF
    assert entropic.cross_entropy(none, [[1.0, 0, 0]]) == INF
    assert entropic.cross_entropy(none, [[0.0, 0, 0]]) == 0
    assert entropic.cross_entropy([[0, -INF]], [[0.5, 0.5]], label_smoothing=1.0) == INF
    _, pullback = entropic.vjp(entropic.cross_entropy, np.array([[NAN, 0], [0, 0]]), [0, 1], weight=[0.0, 1.0])
    np.testing.assert_allclose(pullback(1.0)[0], [[0, 0], [0.5, -0.5]])


def test_shapes_without_elements():
    empty = np.zeros((0, 5))
    assert entropic.cross_entropy(empty, empty, reduction="none").shape == (0,)
    assert entropic.info_nce(empty, np.zeros((0, 5), bool), reduction="none").shape == (0,)
    assert entropic.attention_entropy(np.zeros((0, 4, 8)), np.zeros((0, 6, 8))).shape == (0, 4)
    hidden, weight = np.zeros((3, 0)), np.zeros((5, 0))
    np.testing.assert_allclose(entropic.linear_logit_stats(hidden, weight).entropy, np.log(5))
    assert entropic.linear_cross_entropy(hidden, weight, [0, 1, 2]) == pytest.approx(np.log(5))
    nothing = np.zeros((2, 0))
    for options in ({}, {"label_smoothing": 0.1}):
        ignored = [-100, -100]
        assert np.isnan(entropic.cross_entropy(nothing, ignored, **options))
        assert entropic.vjp(entropic.cross_entropy, nothing, ignored, **options)[1](1.0)[0].shape == (2, 0)
    assert entropic.vjp(entropic.row_entropy, nothing, "min")[1](1.0)[0].shape == (2, 0)


def test_semantic_entropy_of_uneven_questions(rng):
    """One question has as many clusters as there are other questions: a table of both would be their product."""
    groups = np.r_[np.zeros(50_000, int), np.arange(1, 50_000), rng.integers(1, 1000, 5000)]
    ids, log_p = np.arange(groups.size) % 50_000, rng.normal(size=groups.size)
    for kind in ("mass", "count", "monte_carlo"):
        found = entropic.semantic_entropy(log_p, ids, groups=groups, kind=kind)
        for question in (0, 7, 999, 40_000):
            mine = groups == question
            assert found[question] == pytest.approx(entropic.semantic_entropy(log_p[mine], ids[mine], kind=kind))
    ids, groups = [0, 0, 1, 2, 0, 1, 0], [0, 0, 0, 0, 1, 1, 3]
    for kind in ("mass", "monte_carlo"):
        check_gradient(entropic.semantic_entropy, (log_p[:7], ids), (0,), groups=groups, kind=kind)
    with pytest.raises(ValueError, match="`lengths` must be positive"):
        entropic.semantic_entropy([0.0, -INF], [0, 1], lengths=[1, INF])


def test_fields_belong_to_the_caller():
    stats = entropic.logit_stats(np.zeros((2, 4)))
    field = stats.entropy
    field[0] = 99
    np.testing.assert_allclose(stats.entropy, np.log(4))
    with pytest.raises(ValueError, match="`offset` must be below"):
        entropic.logit_stats(np.zeros((2, 4)), offset=2**63)
    with pytest.raises(TypeError, match="info_nce: `positives` must be integers or a boolean mask"):
        entropic.info_nce(np.zeros((2, 3)), [0.0, 1.0])
