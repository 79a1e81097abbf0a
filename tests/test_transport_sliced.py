"""Transport along random directions."""

import numpy as np
import pytest
from reference.logits import finite_difference

import entropic
from entropic.transport import _sliced
from entropic.transport._exact import transport_exact
from entropic.transport._one_dimensional import wasserstein_1d
from entropic.transport._sliced import sliced_wasserstein

INF, NAN = np.inf, np.nan


def unit_vectors(seed, k, d):
    normal = np.random.default_rng(seed).standard_normal((k, d))
    return normal / np.linalg.norm(normal, axis=1, keepdims=True)


@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_sliced_is_the_mean_over_directions(p, rng):
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(9, 3)) + 1
    a, b = rng.dirichlet(np.ones(12)), rng.dirichlet(np.ones(9))
    for weights in ((None, None), (a, b), (None, b)):
        powers = [wasserstein_1d(x @ t, y @ t, *weights, p=p) ** p for t in unit_vectors(5, 10, 3)]
        got = sliced_wasserstein(x, y, *weights, p=p, n_projections=10, rng=5)
        assert got == pytest.approx(np.mean(powers) ** (1 / p), rel=1e-13)


def test_sliced_on_the_line_is_exact(rng):
    x, y, a = rng.normal(size=(8, 1)), rng.normal(size=(5, 1)), rng.dirichlet(np.ones(8))
    for p in (1, 2, 3):
        assert sliced_wasserstein(x, y, p=p, rng=0) == wasserstein_1d(x[:, 0], y[:, 0], p=p)
        assert sliced_wasserstein(x, y, a, p=p) == wasserstein_1d(x[:, 0], y[:, 0], a, p=p)
        by_x, by_y = entropic.vjp(sliced_wasserstein, x, y, p=p)[1](1.0)
        line_x, line_y = entropic.vjp(wasserstein_1d, x[:, 0], y[:, 0], p=p)[1](1.0)
        np.testing.assert_allclose(by_x[:, 0], line_x, rtol=1e-14)
        np.testing.assert_allclose(by_y[:, 0], line_y, rtol=1e-14)


def test_sliced_closed_form_and_bound(rng):
    """A shift by t is seen along every direction: the mean of <t, theta>^2 is |t|^2 / d."""
    x, t = rng.normal(size=(30, 4)), np.array([3.0, -1.0, 2.0, 0.5])
    squared = sliced_wasserstein(x, x + t, n_projections=20000, rng=rng) ** 2
    # the fourth moment of a coordinate is 3 / d(d+2): the standard error of the mean, times 4
    error = 4 * np.sqrt((3 / 24 - 1 / 16) / 20000)
    assert squared / (t @ t) == pytest.approx(1 / 4, abs=error)
    y = rng.normal(size=(30, 4)) * 2
    whole = transport_exact(((x[:, None] - y) ** 2).sum(-1)).value
    assert sliced_wasserstein(x, y, rng=1) ** 2 <= whole


def test_sliced_randomness_and_blocks(monkeypatch, rng):
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(10, 3))
    value = sliced_wasserstein(x, y, rng=3)
    assert value == sliced_wasserstein(x, y, rng=3) == sliced_wasserstein(x, y, rng=np.random.default_rng(3))
    assert value != sliced_wasserstein(x, y, rng=4)
    assert sliced_wasserstein(x, y) != sliced_wasserstein(x, y)
    generator = np.random.default_rng(3)
    assert sliced_wasserstein(x, y, rng=generator) != sliced_wasserstein(x, y, rng=generator)
    _, pullback = entropic.vjp(sliced_wasserstein, x, y, rng=3)
    grads = pullback(1.0)
    monkeypatch.setattr(_sliced, "_BLOCK", 33 * 7)
    assert sliced_wasserstein(x, y, rng=3) == pytest.approx(value, rel=1e-14)
    for got, want in zip(pullback(1.0), grads, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)


def test_sliced_types_scales_and_offsets(rng):
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(10, 3))
    want = sliced_wasserstein(x, y, rng=0)
    single = sliced_wasserstein(x.astype(np.float32), y.astype(np.float32), rng=0)
    assert single.dtype == np.float32
    assert single == pytest.approx(want, rel=1e-6)
    for scale in (1e-300, 1e-20, 1e300):
        assert sliced_wasserstein(x * scale, y * scale, rng=0) == pytest.approx(want * scale, rel=1e-13)
    assert sliced_wasserstein(np.full((2, 3), 1.7e308), np.full((2, 3), -1.7e308), rng=0) == INF
    whole, other = rng.integers(0, 2**20, (2, 30, 3)) / 2**10
    near = sliced_wasserstein(whole, other, rng=0)
    assert sliced_wasserstein(whole + 2.0**40, other + 2.0**40, rng=0) == pytest.approx(near, rel=1e-14)


def test_sliced_gradients(rng):
    x, y, a, b = rng.normal(size=(6, 3)), rng.normal(size=(5, 3)), rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(5))
    for p in (1, 2, 3):
        for weights in ((None, None), (a, b)):
            options = {"p": p, "n_projections": 7, "rng": 11}
            value, pullback = entropic.vjp(sliced_wasserstein, x, y, *weights, **options)
            assert value == sliced_wasserstein(x, y, *weights, **options)
            by_x, by_y, *none = pullback(2.0)
            assert none == [None, None]
            want_x = finite_difference(lambda v: sliced_wasserstein(v, y, *weights, **options), x, 2.0, 1e-6)  # noqa: B023
            want_y = finite_difference(lambda v: sliced_wasserstein(x, v, *weights, **options), y, 2.0, 1e-6)  # noqa: B023
            np.testing.assert_allclose(by_x, want_x, rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(by_y, want_y, rtol=1e-6, atol=1e-8)
    # a generator is advanced once, by the value, and the pullback sees the directions of that value
    value, pullback = entropic.vjp(sliced_wasserstein, x, y, rng=np.random.default_rng(11), n_projections=7)
    want, reference = entropic.vjp(sliced_wasserstein, x, y, rng=11, n_projections=7)
    assert value == want
    for _ in range(2):
        np.testing.assert_array_equal(pullback(1.0)[0], reference(1.0)[0])
    assert pullback(1.0)[0].shape == x.shape
    assert entropic.vjp(sliced_wasserstein, x.astype(np.float32), y, rng=0)[1](1.0)[0].dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "options", "error", "text"),
    [
        (
            (np.ones((1, 3, 1)), np.ones((3, 1))),
            {},
            ValueError,
            r"sliced_wasserstein: `x` must have shape \(n, d\), got \(1, 3, 1\)",
        ),
        ((np.ones((3, 2)), np.ones((0, 2))), {}, ValueError, r"`y` must hold at least one point, got shape \(0, 2\)"),
        (
            (np.ones((3, 2)), np.ones((3, 1))),
            {},
            ValueError,
            r"`x` and `y` must have the same dimension, got shapes \(3, 2\) and \(3, 1\)",
        ),
        ((np.full((3, 2), NAN), np.ones((3, 2))), {}, ValueError, "`x` must be finite"),
        (
            (np.ones((3, 2)), np.ones((2, 2)), np.ones(2)),
            {},
            ValueError,
            r"`a` must have shape \(3,\), got shape \(2,\)",
        ),
        ((np.ones((3, 2)), np.ones((2, 2)), np.ones((1, 3))), {}, ValueError, r"`a` must have shape \(3,\), got"),
        ((np.ones((3, 2)), np.ones((2, 2)), np.ones(3)), {}, ValueError, "same total, got 3 and 1"),
        ((np.ones((3, 2)), np.ones((2, 2))), {"p": INF}, ValueError, "`p` must be at least 1 and finite, got inf"),
        (
            (np.ones((3, 2)), np.ones((2, 2))),
            {"n_projections": 0},
            ValueError,
            "`n_projections` must be at least 1, got 0",
        ),
        (
            (np.ones((3, 2)), np.ones((2, 2))),
            {"n_projections": 2.5},
            TypeError,
            "`n_projections` must be an integer, got 2.5",
        ),
        ((np.ones((3, 2)), np.ones((2, 2))), {"rng": "a"}, TypeError, "`rng` must be a numpy.random.Generator, a seed"),
        ((np.ones((3, 2)), np.ones((2, 2))), {"rng": -1}, ValueError, "`rng` must be a numpy.random.Generator, a seed"),
    ],
)
def test_sliced_refusals(arrays, options, error, text):
    with pytest.raises(error, match=text):
        sliced_wasserstein(*arrays, **options)
    if not (len(arrays) == 2 and options):
        return
    with pytest.raises(error, match=text):
        entropic.vjp(sliced_wasserstein, *arrays, **options)


def test_sliced_gradients_where_the_distance_is_0(rng):
    x = rng.normal(size=(3, 2))
    grads = entropic.vjp(sliced_wasserstein, x, x[::-1], rng=0)[1](1.0)
    np.testing.assert_array_equal(grads, np.zeros((2, 3, 2)))


def test_sliced_torch_in_torch_out(rng):
    torch = pytest.importorskip("torch")
    x, y = torch.from_numpy(rng.normal(size=(6, 2))), torch.from_numpy(rng.normal(size=(5, 2)))
    value, pullback = entropic.vjp(sliced_wasserstein, x, y, rng=0)
    assert float(value) == sliced_wasserstein(x.numpy(), y.numpy(), rng=0)
    assert all(isinstance(array, torch.Tensor) for array in (value, *pullback(1.0)))
