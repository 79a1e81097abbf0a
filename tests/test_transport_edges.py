"""Sinkhorn at the edges: zeros, forbidden pairs, extreme scales, batches, the methods of a result and bad input."""

import copy
import pickle
import warnings

import numpy as np
import pytest
from reference import transport as reference
from reference.transport import masses, problem, true_error

import entropic

INF, NAN = np.inf, np.nan


def solved(cost, a, b, eps=0.1, **options):
    return entropic.sinkhorn(cost, a, b, eps=eps, tol=1e-11, max_iter=50_000, **options)


def either_converged_or_warned(cost, a, b, **options):
    """The answer, after a check that it is finite, and that a warning came if and only if it fell short."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = entropic.sinkhorn(cost, a, b, **options)
    assert result.converged == (not caught)
    assert all(issubclass(w.category, entropic.ConvergenceWarning) for w in caught)
    for part in (result.f, result.g, result.value, result.transport_cost, result.marginal_error):
        assert np.isfinite(part).all()
    return result


# ---- edges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"rho": 0.3}, {"rho": 0.3, "relaxation": "tv"}, {"mass": 0.7}])
def test_zero_masses_are_as_if_the_points_were_not_there(options, rng):
    cost, a, b = problem(8, 9, rng)
    wide_a, wide_b, wide = np.insert(a, 3, 0), np.insert(b, [0, 9], 0), rng.uniform(0, 1, (9, 11))
    there = np.ix_(wide_a > 0, wide_b > 0)
    wide[there] = cost
    small, large = solved(cost, a, b, **options), solved(wide, wide_a, wide_b, **options)
    assert large.value == pytest.approx(small.value, abs=1e-10)
    plan = large.plan()
    np.testing.assert_allclose(plan[there], small.plan(), rtol=0, atol=1e-10)
    assert not plan[3].any()
    assert not plan[:, [0, 10]].any()


@pytest.mark.parametrize("eps", [1e-3, 0.3])
@pytest.mark.parametrize("options", [{}, {"rho": 0.3}, {"rho": 0.3, "relaxation": "tv"}, {"mass": 0.7}])
def test_points_without_mass_have_the_potential_that_they_would_get(options, eps, rng):
    """The limit of little mass there: Sinkhorn's own update."""
    cost, a, b = problem(8, 9, rng)
    a[2], b[[0, 4]] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    result = solved(cost, a, b, eps=eps, **options)
    with np.errstate(divide="ignore"):
        f = -eps * reference.logsumexp((result.g - cost) / eps + np.log(b), axis=1)
        g = -eps * reference.logsumexp((result.f[:, None] - cost) / eps + np.log(a)[:, None], axis=0)
    if "relaxation" in options:
        f, g = np.clip(f, -0.3, 0.3), np.clip(g, -0.3, 0.3)
    elif "rho" in options:
        f, g = 0.3 / (0.3 + eps) * f, 0.3 / (0.3 + eps) * g
    elif "mass" in options:
        f, g = np.minimum(f, result.f.max()), np.minimum(g, 0.0)
    np.testing.assert_allclose(result.f[2], f[2], rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.g[[0, 4]], g[[0, 4]], rtol=0, atol=1e-9)


def test_forbidden_pairs_get_nothing(rng):
    cost, a, b = problem(8, 8, rng)
    cost[~np.tri(8, dtype=bool)] = INF
    a = b = np.full(8, 0.125)
    np.testing.assert_allclose(solved(cost, a, b).plan(), np.eye(8) / 8, rtol=0, atol=1e-9)
    np.fill_diagonal(cost[1:], INF)  # only the diagonal is left of the first two rows
    result = solved(cost, masses(8, rng), masses(8, rng), rho=1.0)
    assert not result.plan()[np.isinf(cost)].any()
    assert np.isfinite(result.value)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_line_of_forbidden_pairs(axis, rng):
    cost, a, b = problem(5, 5, rng)
    (cost if axis == 0 else cost.T)[2] = INF
    with pytest.raises(ValueError, match="`a`" if axis == 0 else "`b`"):
        solved(cost, a, b)
    stranded = (a, b)[axis]
    stranded[2] = 0
    stranded /= stranded.sum()
    result = solved(cost, a, b)
    assert np.isfinite(result.value)
    result = solved(cost, a, b, rho=1.0)
    assert result.value == pytest.approx(reference.objective(result.plan(), cost, a, b, 0.1, rho=(1, 1)), abs=1e-9)


@pytest.mark.parametrize("options", [{"rho": (INF, 1.0)}, {"rho": (0.5, 1.5), "relaxation": "range"}, {"mass": 0.9}])
def test_mass_that_must_move_and_cannot_is_not_called_converged(options):
    cost = np.array([[0.0, 0.3], [INF, INF]])
    try:
        result = either_converged_or_warned(cost, None, None, eps=0.1, max_iter=300, **options)
    except ValueError:
        return
    assert not result.converged


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1)])
def test_one_point(shape, rng):
    cost, a, b = problem(*shape, rng)
    np.testing.assert_allclose(solved(cost, a, b).plan(), np.outer(a, b), rtol=1e-12)


@pytest.mark.parametrize("cost", [np.zeros((4, 6)), np.full((4, 6), -3e5), np.full((4, 6), 7e-300)])
def test_constant_cost(cost, rng):
    a, b = masses(4, rng), masses(6, rng)
    result = solved(cost, a, b)
    np.testing.assert_allclose(result.plan(), np.outer(a, b), rtol=1e-9)
    assert result.value == pytest.approx(cost[0, 0], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "manhattan"])
def test_clouds_far_from_the_origin_lose_nothing(metric, rng):
    # multiples of 2^-20 stay exact after the shift
    x, y = (np.round(rng.normal(size=(20, 3)) * 2**20) / 2**20 for _ in range(2))
    near, far = (solved(entropic.PointCloud(x + s, y + s, metric=metric), None, None) for s in (0.0, 2.0**30))
    assert far.value == pytest.approx(near.value, rel=1e-12)


def test_equal_and_duplicated_points(rng):
    x = np.repeat(rng.normal(size=(5, 2)), 3, axis=0)
    plan = solved(entropic.PointCloud(x, x), None, None).plan()
    np.testing.assert_allclose(plan, plan.T, rtol=0, atol=1e-11)
    np.testing.assert_allclose(plan, np.repeat(np.repeat(plan[::3, ::3], 3, 0), 3, 1), rtol=1e-12)
    assert solved(entropic.PointCloud(x * 0, x * 0), None, None).value == pytest.approx(0, abs=1e-15)


def test_masses_that_differ_by_rounding_and_plainly(rng):
    cost, a, b = problem(30, 40, rng)
    exact = solved(cost, a, b)
    for other in (b * (1 + 1e-14), b.astype(np.float32)):
        assert solved(cost, a, other).value == pytest.approx(exact.value, abs=1e-6)
    with pytest.raises(ValueError, match="total"):
        solved(cost, a, b * 1.001)


@pytest.mark.parametrize("eps", [1e-3, 0.1])
def test_more_than_a_thousand_points_keep_their_mass(eps, rng):
    x, y = rng.normal(size=(1100, 3)), rng.normal(size=(1100, 3)) + 0.5
    cost, a, b = reference.pairwise(x, y), np.full(1100, 1 / 1100), np.full(1100, 1 / 1100)
    result = either_converged_or_warned(cost, a, b, eps=eps, tol=1e-5, max_iter=500)
    assert result.plan().sum() == pytest.approx(1, abs=1e-2)
    assert true_error(result, cost, a, b) == pytest.approx(result.marginal_error, rel=1e-3, abs=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("power", range(-6, 4))
def test_every_eps_is_finite_and_tells_the_truth(power, scale, dtype, rng):
    cost, a, b = problem(40, 50, rng)
    cost = (scale * cost).astype(dtype)
    eps = 10.0**power * float(cost.max())
    result = either_converged_or_warned(cost, a, b, eps=eps, max_iter=1000)
    assert result.plan().dtype == dtype
    assert true_error(result, cost, a, b) == pytest.approx(result.marginal_error, rel=1e-3, abs=1e-10)
    assert result.dual_gap >= -1e-9 * (scale + eps)


@pytest.mark.parametrize("power", [-3, -2, -1, 0])
def test_float32_reaches_its_promise(power, rng):
    x, y, a, b = (*rng.normal(size=(2, 120, 3)).astype(np.float32), masses(120, rng), masses(120, rng))
    cost = reference.pairwise(x, y).astype(np.float32)
    eps = 10.0**power * float(cost.max())
    result = entropic.sinkhorn(cost, a, b, eps=eps, tol=1e-5)
    assert true_error(result, cost, a, b) <= 1e-5
    cloud = entropic.sinkhorn(entropic.PointCloud(x, y), a, b, eps=eps, tol=1e-5)
    assert cloud.marginal_error <= 1e-5
    assert cloud.value == pytest.approx(result.value, rel=1e-4)


def test_a_tolerance_below_rounding_stops_and_says_so(rng):
    cost, a, b = problem(30, 30, rng)
    with pytest.warns(entropic.ConvergenceWarning):
        result = entropic.sinkhorn(cost.astype(np.float32), a, b, eps=1e-2, tol=1e-30)
    assert result.n_iter < 10_000
    assert true_error(result, cost.astype(np.float32), a, b) <= 1e-12


@pytest.mark.parametrize("options", [{"eps": 0.01}, {"eps": 1e-4}, {"eps": 0.1, "rho": 0.3}, {"eps": 0.1, "mass": 0.4}])
def test_the_same_bits_on_any_number_of_threads(options, rng):
    cost, a, b = problem(300, 200, rng)
    x, y = rng.normal(size=(300, 3)).astype(np.float32), rng.normal(size=(200, 3)).astype(np.float32)
    for given in (cost, cost.astype(np.float32), entropic.PointCloud(x, y), np.stack([cost, cost[::-1]])):
        answers = []
        for count in (1, 2, 3):
            with entropic.num_threads(count):
                answers.append(entropic.sinkhorn(given, a, b, **options))
        for other in answers[1:]:
            assert (other.f.tobytes(), other.g.tobytes()) == (answers[0].f.tobytes(), answers[0].g.tobytes())
            np.testing.assert_array_equal(other.value, answers[0].value)
            np.testing.assert_array_equal(other.n_iter, answers[0].n_iter)


@pytest.mark.parametrize("options", [{}, {"rho": 1.0}, {"rho": 1.0, "relaxation": "tv"}, {"mass": 0.5}])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stopped_on_the_way_down_is_a_plan_all_the_same(dtype, options, rng):
    """Potentials of a large eps mean nothing at a small one: rows are made to fit."""
    cost = rng.random((20, 20)).astype(dtype)
    for stop in ({"max_iter": 5}, {"callback": lambda iteration, error: np.bool_(iteration >= 3)}):
        with pytest.warns(entropic.ConvergenceWarning):
            result = entropic.sinkhorn(cost, eps=1e-4, **options, **stop)
        assert result.n_iter <= 5
        assert result.marginal_error <= 3
        assert 0 <= result.value <= 10
        assert result.plan().sum() <= 3


def test_no_more_passes_than_asked_for(rng):
    x, y = rng.normal(size=(2, 120, 2))
    cost = reference.pairwise(x, y)
    seen = []
    for most in range(100, 400, 7):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            watch = seen if most == 394 else []
            result = entropic.sinkhorn(cost, eps=1e-5, tol=1e-12, max_iter=most,
                                       callback=lambda i, e, watch=watch: watch.append(i))  # fmt: skip
        assert result.n_iter <= most
    assert (np.diff(seen) >= 0).all()


def test_impossible_masses_keep_their_potentials_in_reach():
    """All of row 0 must go to column 0, which is too small. The error reported is that of the plan returned."""
    cost, a, b = np.array([[0, INF], [0, 1.0]]), np.array([0.5, 0.5]), np.array([0.3, 0.7])
    with pytest.warns(entropic.ConvergenceWarning, match="forbidden pairs of `cost` leave no plan"):
        result = entropic.sinkhorn(cost, a, b, eps=0.1)
    assert true_error(result, cost, a, b) == pytest.approx(result.marginal_error, rel=1e-6)


@pytest.mark.parametrize("shift", [-1e4, -100.0, 2e4])
@pytest.mark.parametrize("options", [{}, {"mass": 0.5}])
def test_a_constant_in_the_cost_adds_its_share(options, shift, rng):
    cost, a, b = problem(9, 13, rng)
    plain, moved = solved(cost, a, b, **options), entropic.sinkhorn(cost + shift, a, b, eps=0.1, tol=1e-9, **options)
    assert moved.converged
    np.testing.assert_allclose(moved.plan(), plain.plan(), rtol=0, atol=1e-7)


def test_plans_beyond_the_range_of_numbers_are_told(rng):
    with pytest.raises(OverflowError, match="the plan overflows float64"):
        entropic.sinkhorn([[-1.0, 0.0]], eps=3e-4, rho=0.0005997861105644926)
    with pytest.warns(entropic.ConvergenceWarning, match="the plan overflows float64"):
        result = entropic.sinkhorn(rng.random((9, 13)) - 100, eps=0.1, rho=1.0, relaxation="tv", max_iter=50)
    assert not result.converged


@pytest.mark.parametrize("metric", ["euclidean", "manhattan"])
@pytest.mark.parametrize("power", [-200, 200])
def test_points_whose_squares_leave_the_range(power, metric, rng):
    x, y = rng.random((2, 6, 2))
    usual = entropic.sinkhorn(entropic.PointCloud(x, y, metric), eps=0.1, tol=1e-10)
    scaled = entropic.sinkhorn(entropic.PointCloud(x * 10.0**power, y * 10.0**power, metric), eps=0.1 * 10.0**power,
                               tol=1e-10)  # fmt: skip
    assert scaled.transport_cost == pytest.approx(usual.transport_cost * 10.0**power, rel=1e-8)


def test_costs_that_overflow_are_named():
    x = np.array([[0.0], [1e200]])
    with pytest.raises(ValueError, match="the costs overflow float64"):
        entropic.sinkhorn(entropic.PointCloud(x, x), eps=1.0)


@pytest.mark.parametrize("options", [{}, {"rho": 0.5}, {"mass": 0.5}, {"rho": 0.1, "relaxation": "tv"}])
def test_the_potential_at_the_sources_is_theirs(options, rng):
    x, y = rng.random((7, 2)), rng.random((5, 2))
    result = solved(entropic.PointCloud(x, y), None, None, **options)
    np.testing.assert_allclose(result.potential_at(x), result.f, rtol=0, atol=1e-9)


def test_results_are_pickled_and_copied(rng):
    x, y = rng.random((2, 6, 2))
    for cost in (rng.random((3, 4)), rng.random((2, 3, 4)), entropic.PointCloud(x, y), entropic.Grid(2, 3)):
        result = entropic.sinkhorn(cost, eps=0.1)
        for twin in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
            np.testing.assert_array_equal(twin.plan(), result.plan())
            np.testing.assert_array_equal(twin.value, result.value)


def test_empty_batches(rng):
    for options in ({}, {"rho": 1.0}, {"mass": 0.5}):
        result = entropic.sinkhorn(np.ones((0, 3, 4)), eps=0.1, **options)
        assert result.f.shape == (0, 3)
        assert result.apply(np.ones((0, 4, 2))).shape == (0, 3, 2)


def test_layouts_are_read_and_left_alone(rng):
    cost, a, b = problem(12, 9, rng)
    truth = solved(cost, a, b).plan()
    strided = np.zeros((24, 27))
    strided[::2, ::3] = cost
    for layout in (strided[::2, ::3], np.asfortranarray(cost), cost[:, ::-1].copy()[:, ::-1], cost.astype(">f8")):
        layout.flags.writeable = False
        np.testing.assert_allclose(solved(layout, a, b).plan(), truth, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(strided[::2, ::3], cost)


# ---- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"rho": (0.3, 1.0)}, {"mass": 0.4}])
def test_a_batch_is_its_problems(options, rng):
    costs, a, b = rng.uniform(0, 1, (6, 7, 9)), masses((6, 7), rng, 6.0), masses((6, 9), rng, 6.0)
    b *= (a.sum(axis=1) / b.sum(axis=1))[:, None]
    a[2, 4] = b[2, 0] = 0  # ragged: fewer points
    b[2] *= a[2].sum() / b[2].sum()
    if not options.get("mass"):
        a[4], b[4] = 0, 0  # and none at all
    result = solved(costs, a, b, **options)
    assert result.plan().shape == (6, 7, 9)
    for k in range(6):
        if a[k].any():
            single = solved(costs[k], a[k], b[k], **options)
            np.testing.assert_allclose(result.plan()[k], single.plan(), rtol=0, atol=1e-9)
            assert result.value[k] == pytest.approx(single.value, abs=1e-9)
        else:
            assert not result.plan()[k].any()
            assert result.value[k] == result.marginal_error[k] == 0


# ---- what a result can do --------------------------------------------------------------------------------------------


def test_methods_of_a_result_are_those_of_its_plan(rng):
    cost, a, b = problem(9, 12, rng)
    result = entropic.sinkhorn(cost, a, b, eps=0.05, tol=1e-3)
    plan, points = result.plan(), rng.normal(size=(12, 3))
    np.testing.assert_allclose(plan, reference.plan(result.f, result.g, cost, a, b, 0.05), rtol=1e-12)
    np.testing.assert_allclose(result.apply(points), plan @ points, rtol=0, atol=1e-14)
    np.testing.assert_allclose(result.apply(a, axis=0), plan.T @ a, rtol=0, atol=1e-15)
    means = plan @ points / plan.sum(axis=1)[:, None]
    np.testing.assert_allclose(result.barycentric_map(points), means, rtol=1e-11)
    index, value = result.top(4)
    np.testing.assert_array_equal(index, np.argsort(-plan, axis=1, kind="stable")[:, :4])
    np.testing.assert_allclose(value, np.take_along_axis(plan, index, axis=1), rtol=1e-14)


@pytest.mark.parametrize("n_iter", [1, 5, 300])
def test_rounded_is_feasible_and_the_gap_certifies(n_iter, rng):
    cost, a, b = problem(9, 12, rng)
    result = entropic.sinkhorn(cost, a, b, eps=0.05, method="sinkhorn", tol=0, max_iter=n_iter)
    rounded = result.rounded()
    assert rounded.min() >= 0
    assert reference.marginal_error(rounded, a, b) <= 1e-15
    assert np.abs(rounded - result.plan()).sum() <= 2 * result.marginal_error + 1e-14
    dual = reference.dual_objective(result.f, result.g, cost, a, b, 0.05)
    gap = reference.objective(rounded, cost, a, b, 0.05) - dual
    assert result.dual_gap == pytest.approx(gap, abs=1e-13)
    assert gap >= solved(cost, a, b, 0.05).value - dual - 1e-12  # at least the true distance to the optimum


# ---- bad input -------------------------------------------------------------------------------------------------------

HALVES = np.full(2, 0.5)
BAD = {
    "negative a": ({"a": [1.5, -0.5]}, "`a`.*negative"),
    "negative b": ({"b": [1.5, -0.5]}, "`b`.*negative"),
    "nan a": ({"a": [NAN, 0.5]}, "`a`.*nan"),
    "nan b": ({"b": [NAN, 0.5]}, "`b`.*nan"),
    "inf a": ({"a": [INF, 0.5]}, "`a`.*finite"),
    "zero a": ({"a": [0.0, 0.0]}, "`a`.*total"),
    "long a": ({"a": np.ones(3) / 3}, "`a`.*shape"),
    "deep b": ({"b": np.ones((2, 2)) / 2}, "`b`.*shape"),
    "nan cost": ({"cost": [[0, NAN], [1, 0]]}, "`cost`.*nan"),
    "-inf cost": ({"cost": [[0, -INF], [1, 0]]}, "`cost`.*inf"),
    "flat cost": ({"cost": [0.0, 1.0]}, "`cost`.*shape"),
    "no rows": ({"cost": np.empty((0, 2)), "a": None}, "`cost`"),
    "no columns": ({"cost": np.empty((2, 0)), "b": None}, "`cost`"),
    "eps 0": ({"eps": 0.0}, "`eps`"),
    "eps < 0": ({"eps": -1.0}, "`eps`"),
    "eps nan": ({"eps": NAN}, "`eps`"),
    "eps inf": ({"eps": INF}, "`eps`"),
    "tol < 0": ({"tol": -1e-3}, "`tol`"),
    "max_iter 0": ({"max_iter": 0}, "`max_iter`"),
    "method": ({"method": "magic"}, "`method`.*magic"),
    "relaxation": ({"relaxation": "l7", "rho": 1.0}, "`relaxation`.*l7"),
    "rho < 0": ({"rho": -1.0}, "`rho`"),
    "rho nan": ({"rho": NAN}, "`rho`"),
    "range above 1": ({"rho": (1.1, 1.2), "relaxation": "range"}, "`rho`"),
    "mass and rho": ({"rho": 1.0, "mass": 0.5}, "`mass`.*`rho`"),
    "mass 0": ({"mass": 0.0}, "`mass`"),
    "mass too large": ({"mass": 0.6, "b": HALVES / 2}, "`mass`"),
    "long init": ({"init": (np.zeros(3), np.zeros(2))}, "`init`"),
    "nan init": ({"init": (np.array([0, NAN]), np.zeros(2))}, "`init`"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    changes, words = BAD[name]
    arguments = {"cost": [[0.0, 1.0], [1.0, 0.0]], "a": HALVES, "b": HALVES, "eps": 0.1} | changes
    with pytest.raises(ValueError, match=words):
        entropic.sinkhorn(np.asarray(arguments.pop("cost")), **arguments)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric": "hamming"}, "`metric`.*hamming"),
        ({"x": np.zeros((3, 5))}, "dimension"),
        ({"x": np.zeros((0, 2))}, "`x`"),
        ({"y": np.full((3, 2), NAN)}, "`y`"),
    ],
)
def test_bad_clouds_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        entropic.PointCloud(**({"x": np.zeros((3, 2)), "y": np.zeros((3, 2))} | changes))


def test_zero_vectors_have_no_cosine():
    with pytest.raises(ValueError, match="zero"):
        solved(entropic.PointCloud(np.zeros((3, 2)), np.ones((3, 2)), metric="cosine"), None, None)


def test_wrong_kinds_are_refused(rng):
    cost, a, b = problem(3, 3, rng)
    for changes in ({"eps": "small"}, {"eps": True}, {"max_iter": 2.5}, {"init": a}):
        with pytest.raises(TypeError, match=next(iter(changes))):
            entropic.sinkhorn(cost, a, b, **({"eps": 0.1} | changes))
    with pytest.raises(TypeError, match="cost"):
        entropic.sinkhorn(cost + 1j, a, b, eps=0.1)
    with pytest.raises(ValueError, match="balanced"):
        solved(cost, a, b, rho=1.0).rounded()
    with pytest.raises(ValueError, match="PointCloud"):
        solved(cost, a, b).map_at(np.zeros((2, 2)))
