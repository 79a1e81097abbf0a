"""The log-sum family: references, oracles, laws, edges and error texts."""

import copy
import math
import os
import pickle
import warnings

import ml_dtypes
import mpmath
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from processes import run_python
from reference import logits as reference

import entropic
from entropic import _core

FLOATS = [np.float32, np.float64]
# What the docstrings promise, in units in the last place of the result.
ULPS = {np.float32: 1.0, np.float64: 2.0}
ENTROPY_ERROR = {np.float32: 2e-7, np.float64: 1e-14}
INF, NAN = np.inf, np.nan


def peaked(n, height, dtype, rng):
    x = rng.normal(size=n)
    x[n // 3] += height
    return x.astype(dtype)


def rows_of(dtype, rng):
    """Rows that a careless kernel gets wrong, by name."""
    n = 700
    return {
        "normal": (rng.normal(size=n) * 3).astype(dtype),
        "wide": rng.uniform(-1e4, 1e4, n).astype(dtype),
        "ascending": np.linspace(-50, 50, n).astype(dtype),
        "descending": np.linspace(50, -50, n).astype(dtype),
        "saw": np.tile(np.arange(-7, 7), 50).astype(dtype),
        "peak 25": peaked(n, 25, dtype, rng),
        "peak 40": peaked(n, 40, dtype, rng),
        "offset": (1000 + rng.normal(size=n)).astype(dtype),
        "ties": np.repeat(dtype(3.5), n),
        "two ties apart": np.concatenate([[2], np.full(n - 2, -60), [2]]).astype(dtype),
        "with -inf": np.where(rng.random(n) < 0.3, -INF, rng.normal(size=n)).astype(dtype),
        "one": np.array([-2.5], dtype),
        "dominated": np.array([0, -40], dtype),
        "faint": np.array([0] + [-40] * 300, dtype),
        "beyond float32 exp": np.array([0] + [-90] * 300, dtype),
        "large": np.full(9, np.finfo(dtype).max / 2, dtype),
        "subnormal": np.full(9, np.finfo(dtype).smallest_subnormal, dtype),
    }


# ---- exp and log -----------------------------------------------------------------------------------------------------


def exact_in_float64(name, x):
    """numpy's float64 functions are within an ulp, which for float32 results is exact enough."""
    with np.errstate(all="ignore"):
        return getattr(np, name)(x.astype(np.float64))


@pytest.mark.parametrize(("name", "low", "high"), [("exp", -110.0, 95.0), ("log", 1e-45, 3e38), ("log1p", 0.0, 3e38)])
def test_float32_functions_densely(isa, name, low, high):
    ends = np.array([low, high], np.float32).view(np.int32)
    # every 61st float32 of the range, each sign by itself
    if name == "exp":
        bits = np.concatenate([np.arange(0, np.float32(high).view(np.int32), 61, dtype=np.int64),
                               np.arange(np.float32(-0.0).view(np.uint32), np.float32(low).view(np.uint32), 61)])  # fmt: skip
        x = bits.astype(np.uint32).view(np.float32)
    else:
        x = np.arange(ends[0], ends[1], 61, dtype=np.int64).astype(np.uint32).view(np.float32)
    got = _core.elementwise(name, x)
    want = exact_in_float64(name, x)
    with np.errstate(over="ignore"):
        nearest = want.astype(np.float32)
    finite = np.isfinite(nearest)
    assert np.array_equal(got[~finite], nearest[~finite])
    error = np.abs(got[finite] - want[finite]) / np.spacing(np.abs(nearest[finite])).astype(np.float64)
    # a result below the normal range carries the rounding of the normal one
    assert error.max() <= (1.25 if name == "exp" else 1.2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exp", "log", "log1p"])
def test_float32_functions_exhaustively(isa, name):
    """Every float32, against numpy's float64 function."""
    for block in range(512):
        x = np.arange(block << 23, (block + 1) << 23, dtype=np.uint32).view(np.float32)
        if name == "log1p":
            x = x[(x >= 0) | np.isnan(x)]
        got = _core.elementwise(name, x)
        want = exact_in_float64(name, x)
        with np.errstate(over="ignore", invalid="ignore"):
            nearest = want.astype(np.float32)
            usual = np.isfinite(nearest)
            np.testing.assert_array_equal(got[~usual], nearest[~usual])
            error = np.abs(got[usual] - want[usual]) / np.spacing(np.abs(nearest[usual])).astype(np.float64)
        assert not error.size or error.max() <= 1.25


@pytest.mark.parametrize("name", ["exp", "log", "log1p"])
def test_float64_functions_against_mpmath(isa, rng, name):
    if name == "exp":
        x = np.concatenate([rng.uniform(-745, 709, 3000), rng.uniform(-1, 1, 1000), rng.normal(size=300) * 1e-9])
    else:
        x = np.concatenate(
            [10 ** rng.uniform(-300, 300, 2000), rng.uniform(0.4, 3, 3000), 10 ** rng.uniform(-20, 1, 500)]
        )
    got = _core.elementwise(name, x)
    with mpmath.workdps(40):
        f = {"exp": mpmath.exp, "log": mpmath.log, "log1p": mpmath.log1p}[name]
        worst = max(reference.ulps(y, f(mpmath.mpf(float(v)))) for v, y in zip(x, got, strict=True))
    assert worst <= 1.2


@pytest.mark.parametrize("dtype", FLOATS)
def test_function_edges(isa, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([0.0, -0.0, INF, -INF, NAN, 1e30, -1e30], dtype)
    np.testing.assert_array_equal(_core.elementwise("exp", x), np.array([1, 1, INF, 0, NAN, INF, 0], dtype))
    x = np.array([0.0, -0.0, INF, -INF, NAN, -1.0, 1.0], dtype)
    np.testing.assert_array_equal(_core.elementwise("log", x), np.array([-INF, -INF, INF, NAN, NAN, NAN, 0], dtype))
    np.testing.assert_allclose(_core.elementwise("log", np.array([tiny], dtype)), np.log(np.float64(tiny)), rtol=1e-6)
    np.testing.assert_array_equal(
        _core.elementwise("log1p", np.array([0.0, INF, NAN, tiny], dtype)), np.array([0, INF, NAN, tiny], dtype)
    )


# ---- references ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_logsumexp_accuracy(isa, dtype, rng):
    for name, x in rows_of(dtype, rng).items():
        exact, _ = reference.logsumexp(x)
        got = entropic.logsumexp(x)
        assert got.dtype == dtype
        # Here the result is nothing but a sum of 300 equal terms: exp's error does not average out.
        bound = 3.0 if name in ("faint", "beyond float32 exp") else ULPS[dtype]
        assert reference.ulps(got, exact) <= bound, name


@pytest.mark.parametrize("dtype", FLOATS)
def test_entropy_accuracy(isa, dtype, rng):
    for name, x in rows_of(dtype, rng).items():
        exact = reference.entropy(x)
        got = entropic.softmax_entropy(x)
        if exact < np.finfo(dtype).tiny:
            assert abs(got - dtype(float(exact))) <= np.finfo(dtype).tiny * 1e-6, name
            continue
        assert reference.relative_error(got, exact) <= ENTROPY_ERROR[dtype], name


@pytest.mark.parametrize("dtype", FLOATS)
def test_softmax_and_log_softmax_accuracy(isa, dtype, rng):
    for name, x in rows_of(dtype, rng).items():
        p, log_p = entropic.softmax(x), entropic.log_softmax(x)
        exact_logs = reference.log_softmax(x)
        for i in range(0, len(x), 37):
            exact_log = exact_logs[i]
            with mpmath.workdps(reference.DIGITS):
                exact = mpmath.exp(exact_log)
            # x - max is rounded once, an error that the size of the exponent magnifies
            slack = 2 + float(abs(exact_log)) if mpmath.isfinite(exact_log) else 2
            if exact > np.finfo(dtype).tiny:
                assert reference.ulps(p[i], exact) <= slack, name
            assert reference.ulps(log_p[i], exact_log) <= 3, name


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [1, 7, 223, 224, 225, 1500, 3584, 4100])
def test_logcumsumexp_accuracy(isa, dtype, n, rng):
    for x in (rng.normal(size=n) * 5, np.linspace(-400, 400, n), np.linspace(400, -400, n)):
        x = x.astype(dtype)
        exact = reference.logcumsumexp(x)
        got = entropic.logcumsumexp(x)
        # near 0 the maximum and log1p of the rest cancel: there the error is that of the two, of some units' size
        assert max((reference.ulps(g, e) for g, e in zip(got, exact, strict=True) if abs(e) > 3), default=0) <= 2
        assert max((abs(float(g) - float(e)) for g, e in zip(got, exact, strict=True) if abs(e) <= 3), default=0) <= (
            5 * np.finfo(dtype).eps
        )
        np.testing.assert_array_equal(entropic.logcumsumexp(x[::-1])[::-1], entropic.logcumsumexp(x, reverse=True))


@pytest.mark.parametrize("dtype", FLOATS)
def test_logmeanexp(isa, dtype, rng):
    for name, x in rows_of(dtype, rng).items():
        exact = reference.logmeanexp(x)
        got = entropic.logmeanexp(x)
        assert abs(float(got) - float(exact)) <= np.finfo(dtype).eps * max(1, abs(float(exact))), name
    for n in (1, 3, 10, 100000):
        assert entropic.logmeanexp(np.full(n, dtype(0.3))) == dtype(0.3)


@pytest.mark.parametrize("dtype", FLOATS)
def test_segments(isa, threads, dtype, rng):
    for n, k, segments in ((1000, 1, 7), (5000, 3, 4000), (300000, 1, 20), (400, 70, 5)):
        x = (rng.normal(size=(n, k)) * 10).astype(dtype)
        x[rng.random((n, k)) < 0.1] = -INF
        ids = rng.integers(0, segments, n)
        got = entropic.segment_logsumexp(x, ids, segments + 2)
        assert got.shape == (segments + 2, k)
        assert got.dtype == dtype
        assert np.all(np.isneginf(got[segments:]))
        for s in range(0, segments, max(1, segments // 25)):
            mine = x[ids == s].astype(np.float64)
            want = scipy.special.logsumexp(mine, axis=0) if len(mine) else np.full(k, -INF)
            np.testing.assert_allclose(got[s], want, rtol=4 * np.finfo(dtype).eps)
    flat = entropic.segment_logsumexp(x[:, 0], ids, segments)
    np.testing.assert_array_equal(flat, entropic.segment_logsumexp(x[:, :1], ids, segments)[:, 0])


# ---- weights and signs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_weights_against_mpmath(isa, dtype, rng):
    for scale in (0.1, 3, 200):
        x = (rng.normal(size=400) * scale).astype(dtype)
        b = rng.normal(size=400).astype(dtype)
        b[::9] = 0
        exact, sign = reference.logsumexp(x, b)
        got, got_sign = entropic.logsumexp(x, b=b, return_sign=True)
        assert got.dtype == dtype
        assert got_sign == sign
        # only log|S| near 0 cancels, against the maximum
        assert abs(float(got) - float(exact)) <= 4 * np.finfo(dtype).eps * max(1, float(np.abs(x).max()))


def test_exact_cancellation(isa, rng):
    for n in (1, 2, 3, 17, 100, 199):  # a fused product inside the two-sums would leave 1e-16 of each
        for dtype in FLOATS:
            x, b = rng.random(n).astype(dtype), rng.normal(size=n).astype(dtype)
            order = rng.permutation(2 * n)
            pairs, weights = np.concatenate([x, x])[order], np.concatenate([b, -b])[order]
            assert entropic.logsumexp(pairs, b=weights, return_sign=True) == (-INF, 0)
    assert entropic.logsumexp([1, 1], b=[1, -1]) == -INF
    assert entropic.logsumexp([1, 1], b=[1, -1], return_sign=True) == (-INF, 0)
    a = np.log([1e20, 1e20, 1.1])
    np.testing.assert_allclose(entropic.logsumexp(a, b=[1, -1, 1]), np.log(1.1), rtol=1e-12)
    np.testing.assert_allclose(entropic.logsumexp(a[::-1], b=[1, -1, 1]), np.log(1.1), rtol=1e-12)
    x = rng.normal(size=200000) * 5
    both, weights = np.concatenate([x, x, [3.0]]), np.concatenate([np.ones(200000), -np.ones(200000), [2.0]])
    order = rng.permutation(len(both))
    # the pairs cancel whatever lies between them, to what is left of 106 bits below the largest term
    np.testing.assert_allclose(entropic.logsumexp(both[order], b=weights[order]), 3 + np.log(2), rtol=1e-13)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([INF, 1], [0, 1]), ([NAN, 1], [0, 1]), ([1, 2], [NAN, 1]), ([1, 2], [INF, 1]), ([-INF, 0], [INF, 1]),
        ([1, 1], [-1, -1]), ([INF, INF], [1, -1]), ([INF], [-1]), ([INF, INF], [2, -1]), ([-INF, -INF], [1, 1]),
        ([5, 5, 1], [1, -2, 1]), ([1000, 1], [-1e-300, 1]), ([INF, NAN], [1, 1]), ([0, 0], [0, 0]),
        ([INF, 3], [-1, 2]), ([1e308, -1e308], [1, 1]), ([2, 3], [True, False]),
    ],
)  # fmt: skip
def test_weight_rules_of_scipy(isa, a, b):
    for kwargs in ({}, {"return_sign": True}):
        got = entropic.logsumexp(a, b=b, **kwargs)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            want = scipy.special.logsumexp(a, b=b, **kwargs)
        np.testing.assert_allclose(got, want, rtol=1e-14, err_msg=f"{kwargs}")


def test_broadcasting_of_weights(isa, rng):
    for shape_a, shape_b, axis in [((3, 5), (5,), 1), ((5,), (3, 5), 0), ((3, 1), (1, 5), None), ((2, 3, 4), (3, 1), (0, 2)),
                                   ((4,), (), 0), ((), (4,), 0)]:  # fmt: skip
        a, b = rng.normal(size=shape_a), rng.normal(size=shape_b)
        got = entropic.logsumexp(a, axis, b, return_sign=True)
        want = scipy.special.logsumexp(a, axis, b, return_sign=True)
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-12)
            assert np.shape(g) == np.shape(w)


def test_types_of_weighted_results():
    one = np.zeros(3, np.float32)
    assert entropic.logsumexp(one, b=2.5).dtype == np.float32
    assert entropic.logsumexp(one, b=np.ones(3, np.float32)).dtype == np.float32
    assert entropic.logsumexp(one, b=np.ones(3)).dtype == np.float64
    assert entropic.logsumexp(one, b=np.ones(3, int)).dtype == np.float64
    assert entropic.logsumexp(one, b=np.ones(3, np.uint8)).dtype == np.float32
    assert entropic.logsumexp(one, b=np.ones(3, bool)).dtype == np.float32
    assert entropic.logsumexp(np.zeros(3, int), b=2).dtype == np.float64


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex(isa, dtype, rng):
    for n in (1, 2, 50, 3000):
        a = (rng.normal(size=n) * 3 + 1j * rng.uniform(-9, 9, n)).astype(dtype)
        got = entropic.logsumexp(a)
        assert got.dtype == dtype
        exact = complex(reference.complex_logsumexp(a))
        assert abs(got - exact) <= 20 * np.finfo(dtype).eps * max(1, abs(exact))
        size, phase = entropic.logsumexp(a, return_sign=True)
        assert size.dtype == np.finfo(dtype).dtype
        np.testing.assert_allclose(np.log(phase) + size, exact, rtol=20 * np.finfo(dtype).eps)
    b = rng.normal(size=n) + 1j * rng.normal(size=n)
    exact = complex(reference.complex_logsumexp(a, b))
    assert abs(entropic.logsumexp(a, b=b) - exact) <= 20 * np.finfo(dtype).eps * max(1, abs(exact))
    assert entropic.logsumexp(np.array([0.0, 1j * np.pi])).real < -30  # exp(i pi) is -1 to rounding
    assert entropic.logsumexp(np.array([-INF + 2j, 1 + 0j])) == 1
    assert entropic.logsumexp(np.array([complex(-3, 4)])) == pytest.approx(complex(-3, 4 - 2 * np.pi), rel=1e-15)


# ---- axes, layouts, types --------------------------------------------------------------------------------------------


def scipy_entropy(x, axis):
    p = scipy.special.softmax(x, axis)
    return scipy.special.entr(p).sum(axis)


def layouts(x):
    """The same values in every memory layout that NumPy knows."""
    yield "C", x
    yield "Fortran", np.asfortranarray(x)
    yield "reversed", np.ascontiguousarray(x[::-1, ..., ::-1])[::-1, ..., ::-1]
    yield "every second", np.repeat(np.repeat(x, 2, axis=0), 2, axis=-1)[::2, ..., ::2]
    yield "big endian", x.astype(x.dtype.newbyteorder(">"))
    raw = np.empty(x.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(x.dtype).reshape(x.shape)
    unaligned[...] = x
    yield "unaligned", unaligned
    locked = x.copy()
    locked.flags.writeable = False
    yield "read-only", locked


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(5, 3), (40, 33), (3, 700), (700, 3), (9, 4, 21), (2, 70, 3, 5), (70, 130)])
def test_axes_and_layouts(isa, dtype, shape, rng):
    x = (rng.normal(size=shape) * 4).astype(dtype)
    x[rng.random(shape) < 0.2] = -INF
    x.reshape(-1)[: shape[-1]] = 0.5
    axes = [None, *range(-1, len(shape)), (0, len(shape) - 1), tuple(range(len(shape))), ()]
    tolerance = {"rtol": 8 * np.finfo(dtype).eps, "atol": 8 * np.finfo(dtype).eps}
    wide = x.astype(np.float64)
    for axis in axes:
        scipy_axis = tuple(range(len(shape))) if axis is None else axis
        with np.errstate(all="ignore"):
            lse = scipy.special.logsumexp(wide, axis)
            soft = scipy.special.softmax(wide, scipy_axis) if axis != () else np.where(np.isneginf(wide), NAN, 1.0)
            log_soft = wide - scipy.special.logsumexp(wide, scipy_axis, keepdims=True) if axis != () else None
        for name, y in layouts(x):
            label = f"{axis} {name}"
            np.testing.assert_allclose(entropic.logsumexp(y, axis), lse, **tolerance, err_msg=label)
            got = entropic.softmax(y, axis)
            assert got.dtype == dtype
            np.testing.assert_allclose(got, soft, **tolerance, err_msg=label)
            if axis == ():
                continue
            with np.errstate(invalid="ignore"):
                np.testing.assert_allclose(entropic.log_softmax(y, axis), log_soft, **tolerance, err_msg=label)
                h = scipy.special.entr(soft).sum(scipy_axis)
            np.testing.assert_allclose(entropic.softmax_entropy(y, axis), h, **tolerance, err_msg=label)
            if isinstance(axis, int):
                with np.errstate(invalid="ignore"):
                    running = np.logaddexp.accumulate(wide, axis)
                np.testing.assert_allclose(entropic.logcumsumexp(y, axis), running, **tolerance, err_msg=label)


def test_keepdims_and_out(rng):
    x = rng.normal(size=(3, 4, 5))
    assert entropic.logsumexp(x, keepdims=True).shape == (1, 1, 1)
    assert entropic.logsumexp(x, (0, 2), keepdims=True).shape == (1, 4, 1)
    assert entropic.logsumexp(x, (2, 0)).shape == (4,)
    out = np.empty((3, 5))
    assert entropic.logsumexp(x, 1, out=out) is out
    np.testing.assert_array_equal(out, entropic.logsumexp(x, 1))
    strided = np.empty((6, 5))[::2]
    entropic.logmeanexp(x, 1, out=strided)
    np.testing.assert_array_equal(strided, entropic.logmeanexp(x, 1))
    signs = entropic.logsumexp(x, 1, b=x, return_sign=True, out=out)
    assert signs[0] is out


@pytest.mark.parametrize("shape", [(40,), (30, 50), (200, 7), (7, 200000)])
@pytest.mark.parametrize("func", [entropic.softmax, entropic.log_softmax])
def test_maps_in_place(isa, shape, func, rng):
    for axis in (None, *range(len(shape))):
        x = rng.normal(size=shape).astype(np.float32)
        want = func(x, axis)
        out = np.empty(shape, np.float32, order="F")
        assert func(x, axis, out=out) is out
        np.testing.assert_array_equal(out, want)
        assert func(x, axis, out=x) is x
        np.testing.assert_array_equal(x, want)


def test_scalars_lists_and_integers():
    assert entropic.logsumexp(3.0) == 3.0
    assert isinstance(entropic.logsumexp([1.0, 2.0]), np.float64)
    assert isinstance(entropic.logsumexp(np.float32(1)), np.float32)
    np.testing.assert_allclose(entropic.logsumexp([1, 2, 3]), scipy.special.logsumexp([1, 2, 3]))
    assert entropic.logsumexp(np.array(2.0), axis=0) == 2.0
    assert entropic.softmax(2.0) == 1.0
    for dtype in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, bool):
        x = np.array([0, 1, 1], dtype)
        got = entropic.logsumexp(x)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, np.log(1 + 2 * np.e), rtol=1e-15)
        np.testing.assert_allclose(entropic.softmax(x)[0], 1 / (1 + 2 * np.e), rtol=1e-15)
    assert entropic.logsumexp(np.array([2**53 + 1, 0])) == 2.0**53
    assert entropic.logsumexp([[1.0, 2.0], [3.0, 4.0]], axis=(np.int64(0), 1)) == pytest.approx(4.44018969856)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_summed_wide(isa, dtype, rng):
    zeros = np.zeros(100000, dtype)
    assert entropic.logsumexp(zeros) == dtype(np.log(100000))
    assert entropic.logsumexp(zeros).dtype == dtype
    x = (rng.normal(size=(50, 300)) * 3).astype(dtype)
    wide = x.astype(np.float64)
    for axis in (0, 1, None):
        np.testing.assert_array_equal(
            entropic.logsumexp(x, axis), np.asarray(scipy.special.logsumexp(wide, axis)).astype(dtype)
        )
        p = entropic.softmax(x, axis)
        assert p.dtype == dtype
        want = scipy.special.softmax(wide, axis)
        np.testing.assert_allclose(p.astype(float), want, rtol=float(ml_dtypes.finfo(dtype).eps), atol=1e-7)
    extremes = np.array([ml_dtypes.finfo(dtype).max, -INF, NAN, INF, ml_dtypes.finfo(dtype).smallest_subnormal], dtype)
    for v in extremes:
        np.testing.assert_array_equal(entropic.logsumexp(np.array([v])).astype(float), float(v))


def test_every_half_is_read_and_written(isa):
    for dtype in (np.float16, ml_dtypes.bfloat16):
        every = np.arange(65536, dtype=np.uint16).view(dtype)
        back = entropic.logsumexp(every[:, None], axis=1)
        assert back.dtype == dtype
        with np.errstate(invalid="ignore"):  # numpy, on signalling nans
            np.testing.assert_array_equal(back.astype(float), every.astype(float))
        # log_softmax of pairs (v, 0) is written as halves by the kernel itself; numpy rounds the float32 result
        pairs = np.stack([every[:30000], np.zeros(30000, dtype)], axis=1)
        wide = entropic.log_softmax(pairs.astype(np.float32), axis=1)
        with np.errstate(over="ignore", invalid="ignore"):
            np.testing.assert_array_equal(
                entropic.log_softmax(pairs, axis=1).astype(float), wide.astype(dtype).astype(float)
            )


# ---- inf, nan, empty -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 63, 64, 65, 1023, 1024, 1025, 4096, 8200])
def test_special_values_in_every_place(isa, dtype, n, rng):
    base = rng.normal(size=n).astype(dtype)
    places = sorted({0, n // 2, n - 1, min(n - 1, 64), max(0, n - 17)})
    for i in places:
        x = base.copy()
        x[i] = NAN
        assert np.isnan(entropic.logsumexp(x))
        assert np.isnan(entropic.softmax_entropy(x))
        assert np.all(np.isnan(entropic.softmax(x)))
        x[i] = INF
        assert entropic.logsumexp(x) == INF
        assert np.isnan(entropic.softmax_entropy(x))
        assert np.all(np.isnan(entropic.softmax(x)))
        log_p = entropic.log_softmax(x)
        assert np.isnan(log_p[i])
        assert np.all(np.isneginf(np.delete(log_p, i)))
        for j in places:
            if j != i:
                y = x.copy()
                y[j] = NAN
                assert np.isnan(entropic.logsumexp(y))
                y[j] = INF
                assert entropic.logsumexp(y) == INF
        x[i] = -INF
        if n > 1:
            np.testing.assert_allclose(
                entropic.logsumexp(x), entropic.logsumexp(np.delete(x, i)), rtol=4 * np.finfo(dtype).eps
            )
        alone = np.full(n, -INF, dtype)
        assert entropic.logsumexp(alone) == -INF
        alone[i] = 2.5
        assert entropic.logsumexp(alone) == 2.5
        assert entropic.softmax_entropy(alone) == 0
        alone[i] = NAN
        assert np.isnan(entropic.logsumexp(alone))


@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (1, 1), (3000, 5)])
def test_special_values_in_lanes(isa, shape, rng):
    x = rng.normal(size=shape)
    x[rng.random(shape) < 0.3] = -INF
    x[rng.random(shape) < 0.01] = NAN
    x[rng.random(shape) < 0.01] = INF
    x[:, 0] = -INF
    for axis in (0, 1):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            want = scipy.special.logsumexp(x, axis)
            soft = scipy.special.softmax(x, axis)
        np.testing.assert_allclose(entropic.logsumexp(x, axis), want, rtol=1e-13)
        np.testing.assert_allclose(entropic.softmax(x, axis), soft, rtol=1e-13)
        with np.errstate(invalid="ignore"):
            running = np.logaddexp.accumulate(x, axis)
        np.testing.assert_allclose(entropic.logcumsumexp(x, axis), running, rtol=1e-13, atol=1e-14)


def test_empty():
    for shape, axis in [
        ((0,), None),
        ((0,), 0),
        ((0, 3), None),
        ((0, 3), (0, 1)),
        ((0, 3), 0),
        ((0, 3), 1),
        ((2, 0, 3), 1),
    ]:
        x = np.zeros(shape)
        want = np.full(np.zeros(shape).sum(axis).shape, -INF)
        for kwargs in ({}, {"b": 1.0}):
            np.testing.assert_array_equal(entropic.logsumexp(x, axis, **kwargs), want)
        value, sign = entropic.logsumexp(x, axis, return_sign=True)
        np.testing.assert_array_equal(value, want)
        np.testing.assert_array_equal(sign, np.zeros(want.shape))
        assert entropic.softmax(x, axis).shape == shape
        assert entropic.log_softmax(x, axis).shape == shape
        assert np.all(np.isnan(entropic.logmeanexp(x, axis)))
        assert np.all(np.isnan(entropic.softmax_entropy(x, axis)))
    assert entropic.logcumsumexp(np.zeros((3, 0))).shape == (3, 0)
    assert entropic.logcumsumexp(np.zeros((3, 0)), axis=0).shape == (3, 0)
    assert entropic.segment_logsumexp(np.zeros(0), []).shape == (0,)
    np.testing.assert_array_equal(entropic.segment_logsumexp(np.zeros(0), [], 2), [-INF, -INF])
    assert entropic.segment_logsumexp(np.zeros((3, 0)), [0, 1, 0]).shape == (2, 0)


def test_all_minus_inf_warns_nobody():
    x = np.full((3, 50), -INF)
    assert np.all(np.isneginf(entropic.logsumexp(x, 1)))  # warnings are errors in this suite
    assert np.all(np.isnan(entropic.softmax(x, 1)))
    assert np.all(np.isnan(entropic.softmax_entropy(x, 1)))


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FC00001, 0x7FFFFFFF, 0xFFC00000, 0xFFFFFFFF, 0x7F800001])
@pytest.mark.parametrize("n", [1, 5, 100, 3000])
def test_nan_of_any_payload(isa, bits, n):
    single = np.zeros(n, np.float32)
    single.view(np.uint32)[n // 2] = bits
    double = np.zeros(n)
    double.view(np.uint64)[n // 2] = 0x7FF0000000000001 | (bits << 32) | (bits & 0xFFFF)
    for x in (single, double):
        for y, axis in ((x, -1), (np.tile(x[:, None], (1, 40)), 0), (np.tile(x[n // 2 : n // 2 + 4], (50, 1)), 1)):
            for f in (entropic.logsumexp, entropic.softmax_entropy, entropic.logmeanexp):
                assert np.all(np.isnan(f(y, axis)))
            assert np.all(np.isnan(entropic.softmax(y, axis)))


def test_ends_of_the_range(isa):
    x = np.zeros(3000)
    x[0], x[2500] = -1.7e308, 1.7e308
    assert entropic.softmax_entropy(x) == 0
    assert entropic.softmax_entropy(np.tile(x[:, None], (1, 20)), 0).tolist() == [0.0] * 20
    assert entropic.logsumexp(x) == 1.7e308


@pytest.mark.parametrize("dtype", FLOATS)
def test_differences_that_are_not_exact(isa, dtype, rng):
    """x - max is rounded, which a peaked entropy and a small probability would show many times over."""
    for pair in rng.uniform(-40, 40, (300, 2)).astype(dtype):
        assert reference.relative_error(entropic.softmax_entropy(pair), reference.entropy(pair)) <= ENTROPY_ERROR[dtype]
        exact = reference.log_softmax(pair)
        p, log_p = entropic.softmax(pair), entropic.log_softmax(pair)
        with mpmath.workdps(reference.DIGITS):
            for i in range(2):
                assert reference.ulps(p[i], mpmath.exp(exact[i])) <= 2.5
                assert reference.ulps(log_p[i], exact[i]) <= 2.5


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("top", "rest"), [(0, -17), (0, -30), (0, -40), (1, -4.3), (2, -20)])
def test_long_sums_of_equal_terms(isa, dtype, top, rest):
    """Here rounding is systematic: nothing averages out."""
    n = 100000
    x = np.full(n, rest, dtype)
    x[n // 3] = top
    with mpmath.workdps(60):
        tail = (n - 1) * mpmath.exp(mpmath.mpf(float(x[0])) - top)
        exact = mpmath.log1p(tail) + top
    assert reference.ulps(entropic.logsumexp(x), exact) <= 3
    assert reference.ulps(entropic.logsumexp(np.tile(x[:, None], (1, 17)), axis=0)[5], exact) <= 3
    assert reference.ulps(entropic.logcumsumexp(x)[-1], exact) <= 4
    assert reference.ulps(entropic.segment_logsumexp(x, np.zeros(n, int))[0], exact) <= 4


# ---- many terms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_many_equal_terms(isa, threads, dtype):
    n = 2**25 + 3
    x = np.broadcast_to(dtype(0.25), n)
    # log n + 1/4, where a float32 accumulator stops growing at 2^24
    assert reference.ulps(entropic.logsumexp(x), mpmath.log(n) + mpmath.mpf(1) / 4) <= 1
    assert reference.relative_error(entropic.softmax_entropy(x), mpmath.log(n)) <= ENTROPY_ERROR[dtype]


def test_bits_do_not_depend_on_threads(isa, rng):
    arrays = [
        rng.normal(size=s).astype(t)
        for s in [(700000,), (3, 200001), (5000, 30), (300, 700), (700000, 3)]
        for t in FLOATS
    ]
    funcs = [
        lambda x: entropic.logsumexp(x), lambda x: entropic.logsumexp(x, 0), lambda x: entropic.softmax(x, -1),
        lambda x: entropic.softmax_entropy(x, 0), lambda x: entropic.logcumsumexp(x), lambda x: entropic.logsumexp(x, b=x),
        lambda x: entropic.segment_logsumexp(x, np.arange(len(x)) % 5),
    ]  # fmt: skip
    for x in arrays:
        for f in funcs:
            results = []
            for n in (1, 2, 3, 7):
                with entropic.num_threads(n):
                    results.append(np.asarray(f(x)).tobytes())
            assert len(set(results)) == 1


# ---- scores that are not stored --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 300, 3), (70, 1000, 17), (130, 2000, 64), (9, 70000, 2)])
def test_dot_products_through_the_same_sweep(isa, threads, dtype, sizes, rng):
    rows, cols, depth = sizes
    x, y = rng.normal(size=(rows, depth)).astype(dtype), rng.normal(size=(cols, depth)).astype(dtype)
    scores = 0.7 * (x.astype(np.float64) @ y.T.astype(np.float64))
    tolerance = 60 * np.finfo(dtype).eps
    np.testing.assert_allclose(
        _core.reduce_dot(x, y, 0.7, 0), scipy.special.logsumexp(scores, axis=1), rtol=tolerance, atol=tolerance
    )
    np.testing.assert_allclose(_core.reduce_dot(x, y, 0.7, 2), scipy_entropy(scores, 1), rtol=tolerance, atol=tolerance)


# ---- laws ------------------------------------------------------------------------------------------------------------

values = hnp.arrays(np.float64, st.integers(1, 300), elements=st.floats(-200, 200, width=32))


@settings(deadline=None, max_examples=80)
@given(values, st.integers(-8, 8))
def test_law_shift(x, k):
    c = math.ldexp(1.0, k)
    np.testing.assert_allclose(entropic.logsumexp(x + c), entropic.logsumexp(x) + c, rtol=1e-13, atol=1e-12)
    np.testing.assert_allclose(entropic.softmax_entropy(x + c), entropic.softmax_entropy(x), rtol=1e-10, atol=1e-11)


@settings(deadline=None, max_examples=80)
@given(values, st.randoms(use_true_random=False))
def test_law_permutation_and_merge(x, random):
    order = list(range(len(x)))
    random.shuffle(order)
    whole = entropic.logsumexp(x)
    np.testing.assert_allclose(entropic.logsumexp(x[order]), whole, rtol=1e-14, atol=1e-14)
    cut = random.randint(0, len(x))
    parts = [entropic.logsumexp(x[:cut]), entropic.logsumexp(x[cut:])]
    np.testing.assert_allclose(entropic.logsumexp(parts), whole, rtol=1e-14, atol=1e-14)


@settings(deadline=None, max_examples=80)
@given(values)
def test_law_bounds(x):
    lse, h = entropic.logsumexp(x), entropic.softmax_entropy(x)
    assert x.max() <= lse <= x.max() + math.log(len(x)) + 1e-12
    assert 0 <= h <= math.log(len(x)) * (1 + 1e-14)
    p = entropic.softmax(x)
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-14 * len(x))
    # H = lse - <p, x>
    np.testing.assert_allclose(lse - p @ x, h, atol=1e-11)
    # the last running sum is the sum, and running sums ascend
    running = entropic.logcumsumexp(x)
    np.testing.assert_allclose(running[-1], lse, rtol=1e-14, atol=1e-14)
    assert np.all(np.diff(running) >= -1e-13 * np.abs(running[1:]))


@settings(deadline=None, max_examples=60)
@given(values, st.integers(2, 6))
def test_law_copies_and_base(x, k):
    np.testing.assert_allclose(
        entropic.logsumexp(np.tile(x, k)), entropic.logsumexp(x) + math.log(k), rtol=1e-14, atol=1e-13
    )
    np.testing.assert_allclose(
        entropic.logsumexp(x, b=float(k)), entropic.logsumexp(x) + math.log(k), rtol=1e-14, atol=1e-13
    )
    bits = entropic.softmax_entropy(x, base=2)
    np.testing.assert_allclose(bits * math.log(2), entropic.softmax_entropy(x), rtol=1e-15)


# ---- streams ---------------------------------------------------------------------------------------------------------


def stream_of(x, cuts, axis=-1, b=None):
    s = entropic.LogSumExp()
    for start, stop in zip([0, *cuts], [*cuts, x.shape[axis]], strict=True):
        part = [slice(None)] * x.ndim
        part[axis] = slice(start, stop)
        s.update(x[tuple(part)], axis, None if b is None else b[tuple(part)])
    return s


@pytest.mark.parametrize("dtype", FLOATS)
def test_any_chunking_gives_the_same(isa, dtype, rng):
    x = (rng.normal(size=(4, 5000)) * 30).astype(dtype)
    x[1, 4000] = 700  # a later chunk with a far larger maximum
    x[2] = -INF
    x[3, 77] = NAN
    whole = stream_of(x, [])
    wide = scipy.special.logsumexp(x.astype(np.float64), axis=1)
    np.testing.assert_allclose(whole.logsumexp, wide, rtol=1e-7 if dtype == np.float32 else 1e-15)
    for cuts in ([1], [2500], [10, 10, 4999], list(range(7, 5000, 311))):
        s = stream_of(x, cuts)
        assert s.count == 5000
        assert s.shape == (4,)
        rtol = 1e-15 if dtype == np.float64 else 3e-8  # float32 terms are rounded before they are summed
        np.testing.assert_allclose(s.logsumexp, whole.logsumexp, rtol=rtol)
        # x - max is rounded, which moves an entropy of e^-590 by 590 u; and float32 terms more than 131 below their
        # chunk's maximum are nothing
        np.testing.assert_allclose(
            s.entropy[:2],
            whole.entropy[:2],
            **({"rtol": 1e-13} if dtype == np.float64 else {"rtol": 3e-7, "atol": 1e-50}),
        )
        np.testing.assert_array_equal(s.max, np.array([*x[:2].max(axis=1), -INF, NAN]))
    assert np.isnan(whole.entropy[2])


def test_stream_merge_and_pickle(rng):
    x = rng.normal(size=(1000, 6)) * 10
    left, right = entropic.LogSumExp(), entropic.LogSumExp()
    assert repr(left) == "LogSumExp(empty)"
    left.update(x[:300], axis=0)
    right.update(x[300:], axis=0)
    right = pickle.loads(pickle.dumps(right))
    before = right.logsumexp.copy()
    both = entropic.LogSumExp()
    both.merge(entropic.LogSumExp())
    both.merge(left)
    both.merge(right)
    other_way = entropic.LogSumExp()
    other_way.merge(right)
    other_way.merge(left)
    np.testing.assert_array_equal(right.logsumexp, before)
    np.testing.assert_allclose(both.logsumexp, scipy.special.logsumexp(x, axis=0), rtol=1e-15)
    np.testing.assert_allclose(both.logsumexp, other_way.logsumexp, rtol=1e-15)
    np.testing.assert_allclose(both.entropy, scipy_entropy(x, 0), rtol=1e-13)
    assert both.count == 1000
    assert repr(both) == "LogSumExp(shape=(6,), count=1000)"
    duplicate = copy.copy(both)
    duplicate.update(np.zeros((1, 6)), axis=0)
    assert (both.count, duplicate.count) == (1000, 1001)
    value, sign = both.signed()
    np.testing.assert_allclose(value, both.logsumexp, rtol=1e-15)
    np.testing.assert_array_equal(sign, np.ones(6))


def test_stream_with_weights(rng):
    x, b = rng.normal(size=2000) * 5, rng.normal(size=2000)
    s = stream_of(x, [3, 700], b=b)
    exact, sign = reference.logsumexp(x, b)
    value, got_sign = s.signed()
    assert got_sign == sign
    np.testing.assert_allclose(value, float(exact), rtol=1e-12)
    mixed = entropic.LogSumExp()
    mixed.update(x[:500])
    mixed.update(x[500:], b=np.ones(1500))
    np.testing.assert_allclose(mixed.logsumexp, entropic.logsumexp(x), rtol=1e-15)
    plain = entropic.LogSumExp()
    plain.update(np.full(3, -INF))
    plain.update(np.array([1.0, 1.0]), b=[1.0, -1.0])
    assert plain.signed() == (-INF, 0)
    with pytest.raises(ValueError, match=r"LogSumExp\.entropy: a stream that has taken weights"):
        _ = mixed.entropy
    negative = entropic.LogSumExp()
    negative.update(np.array([0.0]), b=-1.0)
    assert np.isnan(negative.logsumexp)


def test_memmap_in_pieces(tmp_path, rng):
    x = np.memmap(tmp_path / "x.bin", np.float32, "w+", shape=(300, 4000))
    x[...] = rng.normal(size=x.shape)
    want = scipy.special.logsumexp(np.asarray(x, dtype=np.float64), axis=1)
    np.testing.assert_allclose(entropic.logsumexp(x, axis=1), want, rtol=1e-6)
    s = entropic.LogSumExp()
    for k in range(0, 4000, 999):
        s.update(x[:, k : k + 999])
    np.testing.assert_allclose(s.logsumexp, want, rtol=1e-6)


MEMORY = """
import numpy as np, entropic
x = np.random.default_rng(0).normal(size=(500, 40000)).astype(np.float32)
out = np.zeros_like(x)
calls = [lambda: entropic.logsumexp(x), lambda: entropic.logsumexp(x, 0), lambda: entropic.softmax_entropy(x.T, 0),
         lambda: entropic.logsumexp(x[::-1, ::2], 1), lambda: entropic.logsumexp(x, 1, b=2.0),
         lambda: entropic.softmax(x, 1, out=out), lambda: entropic.segment_logsumexp(x, np.arange(500) % 3)]
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024
for call in calls:
    call()
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    call()
    print((status("VmHWM") - before) / x.nbytes < 0.1)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's high-water mark")
def test_no_temporary_of_the_input_s_size():
    result = run_python(MEMORY)
    assert result.stdout.split() == ["True"] * 7, result.stderr


# ---- gradients -------------------------------------------------------------------------------------------------------

CASES = [
    (entropic.logsumexp, {"axis": 1}), (entropic.logsumexp, {}), (entropic.logsumexp, {"axis": 0, "keepdims": True}),
    (entropic.logsumexp, {"axis": (0, 1)}), (entropic.logmeanexp, {"axis": 1}), (entropic.logmeanexp, {}),
    (entropic.softmax_entropy, {}), (entropic.softmax_entropy, {"axis": 0, "base": 2}), (entropic.softmax, {"axis": 1}),
    (entropic.softmax, {}), (entropic.log_softmax, {"axis": 0}), (entropic.logcumsumexp, {}),
    (entropic.logcumsumexp, {"axis": 0, "reverse": True}),
]  # fmt: skip


@pytest.mark.parametrize(("func", "options"), CASES)
def test_gradients_against_finite_differences(isa, func, options, rng):
    for shape in ((3, 4), (20, 5)):
        x = rng.normal(size=shape) * 2
        value, pullback = entropic.vjp(func, x, **options)
        np.testing.assert_array_equal(value, func(x, **options))
        g = rng.normal(size=np.shape(value))
        (grad,) = pullback(g)
        assert grad.shape == x.shape
        np.testing.assert_allclose(
            grad, reference.finite_difference(lambda y: func(y, **options), x, g), rtol=1e-6, atol=1e-8
        )
        (single,) = entropic.vjp(func, x.astype(np.float32), **options)[1](g)
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, grad, rtol=1e-4, atol=1e-5)


def test_gradients_of_weights(rng):
    a, b = rng.normal(size=(3, 4)), rng.normal(size=4)
    b[1] = 0
    for kwargs in ({"axis": 1}, {}):
        value, pullback = entropic.vjp(entropic.logsumexp, a, b=b, wrt=("b",), **(kwargs | {"return_sign": True}))
        g = rng.normal(size=np.shape(value[0]))
        by_a, by_b = pullback(g)
        axis = kwargs.get("axis")

        def log_abs(a, b, axis=axis):
            return entropic.logsumexp(a, axis, b, return_sign=True)[0]

        np.testing.assert_allclose(
            by_a, reference.finite_difference(lambda v: log_abs(v, b), a, g), rtol=1e-5, atol=1e-7
        )
        np.testing.assert_allclose(
            by_b, reference.finite_difference(lambda v: log_abs(a, v), b, g), rtol=1e-5, atol=1e-7
        )
        assert by_b.shape == b.shape
    (only_a,) = entropic.vjp(entropic.logsumexp, a[0], b=b)[1](1.0)
    assert only_a[1] == 0


def test_gradients_of_segments(rng):
    x, ids = rng.normal(size=(9, 2)), np.array([0, 3, 3, 1, 0, 3, 1, 1, 0])
    value, pullback = entropic.vjp(entropic.segment_logsumexp, x, ids)
    g = rng.normal(size=value.shape)
    grad, none = pullback(g)
    assert none is None
    mass = np.isfinite(value)

    def finite_part(y):
        return np.where(mass, entropic.segment_logsumexp(y, ids), 0)

    np.testing.assert_allclose(grad, reference.finite_difference(finite_part, x, g), rtol=1e-6, atol=1e-8)


def test_gradients_of_rows_without_mass(isa):
    for shape in ((2, 5), (40, 5), (2, 2000)):
        x = np.zeros(shape)
        x[0] = -INF
        for func in (entropic.logsumexp, entropic.logmeanexp, entropic.softmax_entropy, entropic.softmax,
                     entropic.log_softmax, entropic.logcumsumexp):  # fmt: skip
            value, pullback = entropic.vjp(func, x, axis=1)
            (grad,) = pullback(np.ones(np.shape(value)))
            np.testing.assert_array_equal(grad[0], np.zeros(shape[1]), err_msg=func.__name__)
            assert np.all(np.isfinite(grad)), func.__name__
    (grad,) = entropic.vjp(entropic.segment_logsumexp, np.array([-INF, 0.0]), [0, 1])[1](1.0)[:1]
    np.testing.assert_array_equal(grad, [0, 1])


def test_gradients_sum_to_zero_or_one(rng):
    x = rng.normal(size=(50, 300)).astype(np.float32) * 4
    (lse,) = entropic.vjp(entropic.logsumexp, x, axis=1)[1](1.0)
    np.testing.assert_allclose(lse.sum(axis=1, dtype=float), 1, rtol=1e-6)
    (h,) = entropic.vjp(entropic.softmax_entropy, x)[1](1.0)
    np.testing.assert_allclose(h.sum(axis=1, dtype=float), 0, atol=1e-6)
    tiny = entropic.vjp(entropic.logsumexp, x, axis=1)[1](1e-30)[0]
    np.testing.assert_allclose(tiny * np.float32(1e30), lse, rtol=1e-5, atol=1e-12)


def test_gradients_of_offset_rows():
    """From the state, not from a value that was rounded at the size of the offset."""
    for dtype, offset in [(np.float16, 1000), (np.float32, 1e6), (np.float64, 1e12), (ml_dtypes.bfloat16, 1000)]:
        x = np.full(3, offset, dtype)
        third = np.full(3, 1 / 3)
        for func, arrays, options in [
            (entropic.logsumexp, (x,), {}), (entropic.logsumexp, (x,), {"b": np.ones(3)}),
            (entropic.segment_logsumexp, (x, np.zeros(3, int)), {}),
        ]:  # fmt: skip
            grad = entropic.vjp(func, *arrays, **options)[1](1.0)[0]
            np.testing.assert_allclose(grad.astype(float), third, rtol=5e-3 if x.itemsize == 2 else 1e-6)
        last = np.array([0.0, 0.0, 1.0])
        grad = entropic.vjp(entropic.logcumsumexp, x)[1](last)[0]
        np.testing.assert_allclose(grad.astype(float), third, rtol=5e-3 if x.itemsize == 2 else 1e-6)
    flat = entropic.vjp(entropic.log_softmax, np.zeros(1000, np.float16))[1](np.ones(1000))[0]
    np.testing.assert_allclose(flat.astype(float), 0, atol=1e-6)


def test_vjp_refusals():
    with pytest.raises(TypeError, match="vjp: pass the arrays of logsumexp"):
        entropic.vjp(entropic.logsumexp)
    with pytest.raises(TypeError, match="vjp: `out` is not supported, softmax returns a value of its own here"):
        entropic.vjp(entropic.softmax, np.zeros(3), out=np.zeros(3))
    with pytest.raises(TypeError, match="pullback of logsumexp: `cotangent` must be real, got dtype complex128"):
        entropic.vjp(entropic.logsumexp, np.zeros(3))[1](1j)
    with pytest.raises(TypeError, match=r"vjp: sum has no gradient rule; there are rules for .*log_softmax, "):
        entropic.vjp(np.sum, np.zeros(3))
    with pytest.raises(TypeError, match=r"vjp: `wrt` names 'c', but logsumexp has gradients for \('b',\) by keyword"):
        entropic.vjp(entropic.logsumexp, np.zeros(3), wrt=("c",))
    with pytest.raises(TypeError, match=r"vjp: `wrt` names 'b', which is not among the arguments"):
        entropic.vjp(entropic.logsumexp, np.zeros(3), wrt=("b",))
    with pytest.raises(ValueError, match=r"pullback of logsumexp: the cotangent must have shape \(2,\), got \(3,\)"):
        entropic.vjp(entropic.logsumexp, np.zeros((2, 3)), axis=1)[1](np.zeros(3))
    with pytest.raises(TypeError, match=r"vjp of logsumexp: `a` must be real, got dtype complex128"):
        entropic.vjp(entropic.logsumexp, np.zeros(3, complex))


# ---- refusals --------------------------------------------------------------------------------------------------------

EVERY = [
    (entropic.logsumexp, "logsumexp", "a"), (entropic.logmeanexp, "logmeanexp", "a"), (entropic.softmax, "softmax", "x"),
    (entropic.log_softmax, "log_softmax", "x"), (entropic.softmax_entropy, "softmax_entropy", "a"),
    (entropic.logcumsumexp, "logcumsumexp", "a"),
]  # fmt: skip


@pytest.mark.parametrize(("func", "name", "argument"), EVERY)
def test_refused_inputs(func, name, argument):
    x = np.zeros((2, 3))
    argument = "logits" if name == "softmax_entropy" else argument
    with pytest.raises(ValueError, match=rf"{name}: `axis` 2 is out of bounds for an array of dimension 2"):
        func(x, axis=2)
    with pytest.raises(np.exceptions.AxisError):
        func(x, axis=-3)
    with pytest.raises(TypeError, match=rf"{name}: `{argument}` is a masked array"):
        func(np.ma.masked_array(x, x == 0))
    with pytest.raises(TypeError, match=rf"{name}: `{argument}` must hold numbers, got dtype object"):
        func(np.array([None, 1]))
    with pytest.raises(TypeError, match=rf"{name}: `{argument}` must hold numbers, got dtype <U1"):
        func(np.array(["a"]))
    with pytest.raises(TypeError, match=rf"{name}: `{argument}` is a sparse array"):
        func(scipy.sparse.csr_array(x))
    with pytest.raises(TypeError, match=rf"{name}: `{argument}` must be an array"):
        func(object())
    if np.dtype(np.longdouble).itemsize > 8:
        with pytest.raises(TypeError, match=rf"{name}: `{argument}` has dtype {np.dtype(np.longdouble)}"):
            func(x.astype(np.longdouble))
    if name != "logsumexp":
        with pytest.raises(TypeError, match=rf"{name}: `{argument}` must be real, got dtype complex128"):
            func(x.astype(complex))
    if name != "logcumsumexp":
        with pytest.raises(ValueError, match=rf"{name}: `axis` \(0, -2\) has duplicate entries"):
            func(x, axis=(0, -2))
        with pytest.raises(
            TypeError, match=rf"{name}: `axis` must be an integer, a tuple of integers or None, got 'a'"
        ):
            func(x, axis="a")


def test_refused_out():
    x = np.zeros((4, 3))
    for bad in ([0.0] * 4, np.float64(0), 1.0):
        with pytest.raises(TypeError, match=r"logsumexp: `out` must be an array, got (list|float64|float)"):
            entropic.logsumexp(x, 1, out=bad)
    window = np.lib.stride_tricks.sliding_window_view(np.zeros(6), 4, writeable=True)
    for view in (window, np.lib.stride_tricks.as_strided(np.zeros(4), (3, 4), (0, 8))):
        with pytest.raises(ValueError, match="softmax: elements of `out` overlap each other in memory"):
            entropic.softmax(view, 1, out=view)
    for func in (entropic.logsumexp, entropic.logmeanexp):
        name = func.__name__
        with pytest.raises(ValueError, match=rf"{name}: `out` must have shape \(4,\), got \(3,\)"):
            func(x, 1, out=np.empty(3))
        with pytest.raises(ValueError, match=rf"{name}: `out` must have dtype float64, got float32"):
            func(x, 1, out=np.empty(4, np.float32))
        with pytest.raises(ValueError, match=rf"{name}: `out` overlaps the input in memory"):
            func(x, 1, out=x[:, 0])
        locked = np.empty(4)
        locked.flags.writeable = False
        with pytest.raises(ValueError, match=rf"{name}: `out` is read-only"):
            func(x, 1, out=locked)
    before = x.copy()
    with pytest.raises(ValueError, match="softmax: `out` overlaps the input in memory"):
        entropic.softmax(x[:3], 1, out=x[1:])
    with pytest.raises(ValueError, match=r"softmax: `out` must have shape \(4, 3\), got \(3, 4\)"):
        entropic.softmax(x, 1, out=np.empty((3, 4)))
    np.testing.assert_array_equal(x, before)
    interleaved = np.zeros(8)
    entropic.softmax(interleaved[::2], out=interleaved[1::2])  # disjoint, although one lies inside the other's bounds
    np.testing.assert_array_equal(interleaved, [0, 0.25] * 4)


def test_refused_weights_ids_and_bases():
    with pytest.raises(
        ValueError, match=r"logsumexp: `b` of shape \(2,\) does not broadcast against `a` of shape \(3,\)"
    ):
        entropic.logsumexp(np.zeros(3), b=np.zeros(2))
    with pytest.raises(ValueError, match="logsumexp: arrays with weights may have at most 32 dimensions, got 40"):
        entropic.logsumexp(np.zeros((1,) * 40), b=np.ones(1))
    with pytest.raises(np.exceptions.AxisError, match="`axis` 1000000000000000000000000000000 is out of bounds"):
        entropic.logsumexp(np.zeros(3), 10**30)
    segment = entropic.segment_logsumexp
    for ids, count in (([0, 1], 10**25), (np.array([0, 2**63], np.uint64), None)):
        with pytest.raises(MemoryError, match=r"segment_logsumexp: .* segments do not fit in memory"):
            segment(np.zeros(2), ids, count)
    with pytest.raises(MemoryError):
        segment(np.zeros(2), [0, 1], 2**39)  # 13 TB of states
    with pytest.raises(MemoryError, match="segments do not fit in memory"):
        segment(np.zeros((1, 4)), [0], 2**39)
    with pytest.raises(TypeError, match="logsumexp: `a` cannot be read as an array: "):
        entropic.logsumexp([[1.0, 2.0], [3.0]])
    with pytest.raises(ValueError, match="segment_logsumexp: `segment_ids` must not be negative, got -1"):
        segment(np.zeros(2), [0, -1])
    with pytest.raises(ValueError, match="segment_logsumexp: `segment_ids` must be below num_segments=2, got 2"):
        segment(np.zeros(2), [0, 2], 2)
    with pytest.raises(ValueError, match=r"segment_logsumexp: `segment_ids` must have shape \(2,\), .* got \(3,\)"):
        segment(np.zeros(2), [0, 1, 1])
    with pytest.raises(TypeError, match="segment_logsumexp: `segment_ids` must be integers, got dtype float64"):
        segment(np.zeros(2), [0.0, 1.0])
    with pytest.raises(TypeError, match=r"segment_logsumexp: `num_segments` must be an integer, got 2\.5"):
        segment(np.zeros(2), [0, 1], 2.5)
    with pytest.raises(ValueError, match="segment_logsumexp: `num_segments` must not be negative, got -1"):
        segment(np.zeros(0), [], -1)
    with pytest.raises(ValueError, match="segment_logsumexp: `a` must have at least one dimension"):
        segment(1.0, [0])
    with pytest.raises(ValueError, match="logcumsumexp: the input must have at least one dimension, got a scalar"):
        entropic.logcumsumexp(1.0)
    for base in (0, -2, 1, INF, NAN):
        with pytest.raises(ValueError, match="softmax_entropy: `base` must be positive, finite and not 1"):
            entropic.softmax_entropy(np.zeros(3), base=base)
    with pytest.raises(TypeError, match="softmax_entropy: `base` must be a number or None, got 'e'"):
        entropic.softmax_entropy(np.zeros(3), base="e")


def test_refused_streams():
    s = entropic.LogSumExp()
    with pytest.raises(ValueError, match=r"LogSumExp\.logsumexp: the stream has no shape yet"):
        _ = s.logsumexp
    s.update(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"LogSumExp\.update: the stream has shape \(2,\), this chunk gives \(3,\)"):
        s.update(np.zeros((3, 3)))
    with pytest.raises(TypeError, match=r"LogSumExp\.update: `chunk` and `b` must be real"):
        s.update(np.zeros((2, 3), complex))
    with pytest.raises(TypeError, match=r"LogSumExp\.merge: `other` must be a LogSumExp, got ndarray"):
        s.merge(np.zeros(2))
    other = entropic.LogSumExp()
    other.update(np.zeros(3))
    with pytest.raises(ValueError, match=r"LogSumExp\.merge: this stream has shape \(2,\), the other \(\)"):
        s.merge(other)
    np.testing.assert_allclose(s.logsumexp, np.log([3, 3]))  # nothing was lost
    assert s.count == 3
