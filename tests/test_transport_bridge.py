"""Bridges along a chain of times, against dense path tensors, linear programs, and laws known in closed form."""

import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import transport as reference

import entropic
from entropic.transport._bridge import schrodinger_bridge

INF, NAN = np.inf, np.nan


def masses(rng, n, total=1.0):
    return total * rng.dirichlet(np.full(n, 3.0))


def chain(rng, sizes):
    return [rng.normal(size=pair) for pair in itertools.pairwise(sizes)]


def path_tensor(bridge, costs):
    """The law of the returned potentials, by its formula, as a dense tensor."""
    times = len(bridge.potentials)
    log_law = 0.0
    for t, f in enumerate(bridge.potentials):
        log_law = log_law + np.expand_dims(f, [d for d in range(times) if d != t])
    for t, cost in enumerate(costs):
        log_law = log_law - np.expand_dims(cost, [d for d in range(times) if d not in (t, t + 1)])
    return np.exp(log_law / bridge.eps)


def onto(law, *times):
    """The law of some of the times, in the order in which they are named."""
    kept = law.sum(axis=tuple(d for d in range(law.ndim) if d not in times))
    return kept.T if times != tuple(sorted(times)) else kept


def log_marginals(potentials, costs, eps):
    """Logarithms of the marginals of the law of these potentials, by SciPy."""
    forward = [np.zeros(len(potentials[0]))]
    for f, cost in zip(potentials, costs, strict=False):
        forward.append(scipy.special.logsumexp((forward[-1] + f / eps)[:, None] - cost / eps, axis=0))
    backward = [np.zeros(len(potentials[-1]))]
    for f, cost in zip(potentials[::-1], costs[::-1], strict=False):
        backward.append(scipy.special.logsumexp(backward[-1] + f / eps - cost / eps, axis=1))
    return [f + p / eps + b for f, p, b in zip(forward, potentials, backward[::-1], strict=True)]


# ---- the definition --------------------------------------------------------------------------------------------------

PATTERNS = ["11", "111", "101", "011", "110", "010", "1111", "1001", "0110", "1010", "0100", "0001"]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("eps", [0.3, 2.0])
def test_law_of_the_dense_tensor(pattern, eps, rng):
    sizes = [3, 5, 4, 3][: len(pattern)]
    costs = chain(rng, sizes)
    marginals = [masses(rng, n) if given == "1" else None for n, given in zip(sizes, pattern, strict=True)]
    bridge = schrodinger_bridge(costs, marginals, eps=eps, tol=1e-12)
    assert bridge.converged
    assert bridge.marginal_error <= 1e-12

    edges = list(itertools.pairwise(range(len(sizes))))
    law = reference.multi_marginal(costs, edges, marginals, eps, n_iter=2000)
    np.testing.assert_allclose(path_tensor(bridge, costs), law, atol=1e-11)
    for t in range(len(sizes)):
        np.testing.assert_allclose(bridge.marginal(t), onto(law, t), atol=1e-11)
        if marginals[t] is None:
            assert not bridge.potentials[t].any()
    for s, t in itertools.permutations(range(len(sizes)), 2):
        np.testing.assert_allclose(bridge.joint(s, t), onto(law, s, t), atol=1e-11)
    for s in range(len(sizes) - 1):
        np.testing.assert_allclose(bridge.coupling(s), onto(law, s, s + 1), atol=1e-11)
    np.testing.assert_array_equal(bridge.joint(1, 1), np.diag(bridge.marginal(1)))

    expected = sum(np.sum(onto(law, s, s + 1) * cost) for s, cost in enumerate(costs))
    assert bridge.value == pytest.approx(expected - eps * scipy.stats.entropy(law.ravel()), abs=1e-10)


def test_two_times_are_plain_transport(rng):
    cost, a, b, eps = rng.normal(size=(6, 9)), masses(rng, 6), masses(rng, 9), 0.2
    bridge = schrodinger_bridge([cost], [a, b], eps=eps, tol=1e-13)
    f, g = reference.sinkhorn(cost, a, b, eps, n_iter=3000)
    plan = reference.plan(f, g, cost, a, b, eps)
    np.testing.assert_allclose(bridge.coupling(0), plan, atol=1e-12)
    entropies = np.sum(a * np.log(a)) + np.sum(b * np.log(b))
    assert bridge.value - eps * entropies == pytest.approx(reference.objective(plan, cost, a, b, eps), abs=1e-11)


def test_small_eps_is_a_linear_program(rng):
    sizes = [3, 4, 3]
    costs = chain(rng, sizes)
    marginals = [masses(rng, n) for n in sizes]
    eps = 1e-4
    bridge = schrodinger_bridge(costs, marginals, eps=eps, tol=1e-9)
    assert bridge.converged
    paths = list(np.ndindex(*sizes))
    rows = [[float(path[t] == i) for path in paths] for t, n in enumerate(sizes) for i in range(n)]
    path_costs = [sum(cost[path[t], path[t + 1]] for t, cost in enumerate(costs)) for path in paths]
    best = scipy.optimize.linprog(path_costs, A_eq=rows, b_eq=np.concatenate(marginals)).fun
    # eps times the entropy is all that sets them apart, and it is at most log(number of paths)
    assert best - eps * np.log(len(paths)) - 1e-9 <= bridge.value <= best + 1e-9
    expected = sum(np.sum(bridge.coupling(s) * cost) for s, cost in enumerate(costs))
    assert best - 1e-8 <= expected <= best + eps * np.log(len(paths)) + 1e-8


# ---- laws ------------------------------------------------------------------------------------------------------------


def test_flow_is_conserved_and_markov(rng):
    sizes = [6, 7, 5, 6, 4]
    bridge = schrodinger_bridge(
        chain(rng, sizes), [masses(rng, 6), None, masses(rng, 5), None, masses(rng, 4)], eps=0.2, tol=1e-11
    )
    for s in range(4):
        np.testing.assert_allclose(bridge.coupling(s).sum(axis=1), bridge.marginal(s), rtol=1e-11)
        np.testing.assert_allclose(bridge.coupling(s).sum(axis=0), bridge.marginal(s + 1), rtol=1e-11)
    for s, r, t in itertools.combinations(range(5), 3):
        through = bridge.joint(s, r) @ (bridge.joint(r, t) / bridge.marginal(r)[:, None])
        np.testing.assert_allclose(bridge.joint(s, t), through, rtol=1e-10)


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(-1e3, 1e3), st.integers(0, 2**32))
def test_scaling_shifting_and_reversal(factor, shift, seed):
    rng = np.random.default_rng(seed)
    sizes, eps = [4, 3, 5], 0.4
    costs, marginals = chain(rng, sizes), [masses(rng, 4), None, masses(rng, 5)]
    plain = schrodinger_bridge(costs, marginals, eps=eps, tol=1e-11)
    scaled = schrodinger_bridge([factor * c for c in costs], marginals, eps=factor * eps, tol=1e-11)
    np.testing.assert_allclose(scaled.joint(0, 2), plain.joint(0, 2), atol=1e-10)
    assert scaled.value == pytest.approx(factor * plain.value, rel=1e-9, abs=1e-9 * factor)
    shifted = schrodinger_bridge([costs[0] + shift, costs[1]], marginals, eps=eps, tol=1e-11)
    np.testing.assert_allclose(shifted.joint(0, 2), plain.joint(0, 2), atol=1e-9)
    assert shifted.value == pytest.approx(plain.value + shift, abs=1e-9 * (1 + abs(shift)))
    heavy = schrodinger_bridge(costs, [factor * marginals[0], None, factor * marginals[2]], eps=eps, tol=1e-11)
    np.testing.assert_allclose(heavy.joint(0, 2), factor * plain.joint(0, 2), rtol=1e-9, atol=1e-10 * factor)
    back = schrodinger_bridge([c.T for c in costs[::-1]], marginals[::-1], eps=eps, tol=1e-11)
    np.testing.assert_allclose(back.joint(2, 0), plain.joint(0, 2), atol=1e-10)


def test_random_walk_bridge():
    """Steps of variance eps between two points: at time t normal, mean on the line, variance eps t (T - t) / T."""
    x = np.linspace(-10.0, 10.0, 401)
    cost, eps, last = (x[:, None] - x) ** 2 / 2, 0.25, 6
    start, end = (np.eye(401)[i] for i in (180, 230))
    bridge = schrodinger_bridge(cost, [start, *[None] * (last - 1), end], eps=eps, tol=1e-12)
    assert bridge.converged
    for t in range(1, last):
        normal = scipy.stats.norm(x[180] + (x[230] - x[180]) * t / last, np.sqrt(eps * t * (last - t) / last))
        # sums over the grid are integrals to rounding, the step being a tenth of the width
        np.testing.assert_allclose(bridge.marginal(t), 0.05 * normal.pdf(x), atol=1e-13)
    middle = bridge.marginal(2) @ x, bridge.marginal(5) @ x
    covariance = (x - middle[0]) @ bridge.joint(2, 5) @ (x - middle[1])
    assert covariance == pytest.approx(eps * 2 * (last - 5) / last, rel=1e-10)


# ---- long chains, networks, forbidden pairs --------------------------------------------------------------------------


@pytest.mark.parametrize("free", [False, True])
def test_long_chain_at_small_eps(free, rng):
    """exp(-path cost / eps) is 1e-4000 and less here."""
    times, n, eps = 200, 12, 0.02
    points = [np.sort(rng.normal(size=n)) + 0.2 * t for t in range(times)]
    costs = [5 + (x[:, None] - y) ** 2 for x, y in itertools.pairwise(points)]
    marginals = [masses(rng, n) for _ in range(times)]
    if free:
        marginals = [m if t in (0, 77, times - 1) else None for t, m in enumerate(marginals)]
    bridge = schrodinger_bridge(costs, marginals, eps=eps, tol=1e-9)
    assert bridge.converged
    error = 0.0
    for t, log_marginal in enumerate(log_marginals(bridge.potentials, costs, eps)):
        np.testing.assert_allclose(bridge.marginal(t), np.exp(log_marginal), atol=1e-10)
        if marginals[t] is not None:
            error = max(error, np.abs(np.exp(log_marginal) - marginals[t]).sum())
    assert error <= 1.1e-9
    ends = bridge.joint(0, times - 1)
    np.testing.assert_allclose(ends.sum(axis=1), bridge.marginal(0), atol=1e-9)
    np.testing.assert_allclose(ends.sum(axis=0), bridge.marginal(times - 1), atol=1e-9)


def test_network_regularised_towards_a_prior(rng):
    """min E[cost] + eps KL(P | prior chain) between two marginals: the kernel is the product of prior * exp(-cost/eps)."""
    n, steps, eps = 7, 5, 0.3
    prior = rng.random((n, n)) * (rng.random((n, n)) < 0.5) + np.eye(n, k=1) + np.eye(n, k=1 - n)
    prior /= prior.sum(axis=1, keepdims=True)
    cost = rng.random((n, n))
    a, b = np.array([0.6, 0.4, 0, 0, 0, 0, 0]), np.array([0, 0, 0, 0, 0.5, 0.2, 0.3])
    with np.errstate(divide="ignore"):
        towards = cost - eps * np.log(prior)
    bridge = schrodinger_bridge(towards, [a, *[None] * (steps - 1), b], eps=eps, tol=1e-12)
    assert bridge.converged

    step = prior * np.exp(-cost / eps)
    kernel = np.linalg.matrix_power(step, steps)
    u, v = np.ones(n), np.ones(n)
    for _ in range(3000):
        v = b / (kernel.T @ u)
        u = a / (kernel @ v)
    np.testing.assert_allclose(bridge.joint(0, steps), u[:, None] * kernel * v, atol=1e-11)
    flow = np.zeros((n, n))
    for s in range(steps):
        edge = bridge.coupling(s)
        left, right = np.linalg.matrix_power(step, s), np.linalg.matrix_power(step, steps - 1 - s)
        np.testing.assert_allclose(edge, (left.T @ u)[:, None] * step * (right @ v), atol=1e-11)
        assert not edge[prior == 0].any()
        flow += edge
    # what leaves a node and what enters it differ by the masses at the ends
    np.testing.assert_allclose(flow.sum(axis=1) - flow.sum(axis=0), a - b, atol=1e-11)


def test_zero_masses_and_forbidden_pairs(rng):
    costs = chain(rng, [4, 5, 4])
    costs[0][:, 3] = INF  # nobody gets to state 3, which is free
    costs[1][0, :2] = INF
    a, b = np.array([0.0, 0.5, 0.0, 0.5]), np.array([0.25, 0.0, 0.75, 0.0])
    bridge = schrodinger_bridge(costs, [a, None, b], eps=0.2, tol=1e-12)
    assert bridge.converged
    kernel = np.exp(-costs[0] / 0.2) @ np.exp(-costs[1] / 0.2)
    u = np.ones(4)
    for _ in range(500):
        v = b / (kernel.T @ u)
        u = a / (kernel @ v)
    np.testing.assert_allclose(bridge.joint(0, 2), u[:, None] * kernel * v, atol=1e-11)
    np.testing.assert_array_equal(np.isneginf(bridge.potentials[0]), a == 0)


@pytest.mark.parametrize(("eps", "free"), [(1e-6, False), *itertools.product([1e-3, 1.0, 1e3], [False, True])])
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_any_scale(eps, free, scale, rng):
    """From 1e-6 to 1e3 of the largest cost, which itself is anything."""
    x, y, z = rng.random((3, 10, 2))
    costs = [scale * reference.pairwise(x, y), scale * reference.pairwise(y, z)]
    marginals = [masses(rng, 10), None if free else masses(rng, 10), masses(rng, 10)]
    bridge = schrodinger_bridge(costs, marginals, eps=eps * scale)
    assert bridge.converged
    assert np.isfinite([*np.concatenate(bridge.potentials), bridge.value]).all()


# ---- what is reported ------------------------------------------------------------------------------------------------


def hard_problem(rng):
    x, y = np.sort(rng.normal(size=(2, 30)), axis=1)
    return [(x[:, None] - y) ** 2, (y[:, None] - x) ** 2], [masses(rng, 30) for _ in range(3)]


@pytest.mark.parametrize("max_iter", [1, 3, 10, 60])
def test_limit_of_iterations(max_iter, rng):
    costs, marginals = hard_problem(rng)
    with pytest.warns(entropic.ConvergenceWarning, match=r"schrodinger_bridge: stopped with .* raise max_iter \(now"):
        bridge = schrodinger_bridge(costs, marginals, eps=0.01, tol=1e-13, max_iter=max_iter)
    assert not bridge.converged
    law = np.exp(log_marginals(bridge.potentials, costs, 0.01))
    assert bridge.marginal_error == pytest.approx(np.abs(law - marginals).sum(axis=1).max(), rel=1e-6, abs=1e-13)
    assert np.isfinite(bridge.value)


def test_marginals_that_no_law_has(rng):
    """Two states share one way out; the reach of each is fine."""
    cost = np.array([[0.0, INF, INF], [0.0, INF, INF], [0.0, 1.0, 1.0]])
    with pytest.warns(entropic.ConvergenceWarning, match="marginals that are off by"):
        bridge = schrodinger_bridge(cost, [[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]], eps=0.1, max_iter=300)
    assert not bridge.converged
    # 0.8 of the mass has to be at state 0, which is to have 0.2
    assert 0.6 - 1e-9 <= bridge.marginal_error <= 2
    assert np.isfinite(bridge.coupling(0)).all()
    np.testing.assert_allclose(bridge.marginal(1), [0.2, 0.4, 0.4], atol=1e-9)


@pytest.mark.parametrize("free", [False, True])
def test_callback(free, rng):
    costs, marginals = hard_problem(rng)
    if free:
        marginals[1] = None
    seen = []
    full = schrodinger_bridge(costs, marginals, eps=0.05, callback=lambda *call: seen.append(call))
    assert full.converged
    assert all(0 < before <= after for before, after in itertools.pairwise(n for n, _ in seen))
    assert seen[-1][0] <= full.n_iter
    with pytest.warns(entropic.ConvergenceWarning, match="the callback stopped it"):
        stopped = schrodinger_bridge(costs, marginals, eps=0.05, callback=lambda n, error: n >= 4)
    assert not stopped.converged
    assert stopped.n_iter < full.n_iter
    law = np.exp(log_marginals(stopped.potentials, costs, 0.05))
    error = max(np.abs(law[t] - m).sum() for t, m in enumerate(marginals) if m is not None)
    assert stopped.marginal_error == pytest.approx(error, rel=1e-9)


# ---- sampling --------------------------------------------------------------------------------------------------------


def test_samples_follow_the_law(rng):
    sizes = [4, 5, 3, 4]
    costs = chain(rng, sizes)
    costs[1][2] = [INF, 0.3, INF]
    bridge = schrodinger_bridge(costs, [masses(rng, 4, 3.0), None, None, masses(rng, 4, 3.0)], eps=0.7)
    n = 40_000
    paths = bridge.sample(n, rng=rng)
    assert (paths.shape, paths.dtype) == ((n, 4), np.int64)
    np.testing.assert_array_equal(bridge.sample(50, rng=7), bridge.sample(50, rng=np.random.default_rng(7)))
    law = path_tensor(bridge, costs) / 3.0
    counts = np.zeros(sizes)
    np.add.at(counts, tuple(paths.T), 1)
    assert not counts[law == 0].any()
    likely = law * n >= 5
    statistic = np.sum((counts[likely] - n * law[likely]) ** 2 / (n * law[likely]))
    assert scipy.stats.chi2.sf(statistic, likely.sum() - 1) > 1e-3


# ---- arrays and arguments --------------------------------------------------------------------------------------------


def test_forms_of_the_arguments(rng):
    cost = rng.random((5, 5))
    a, b = masses(rng, 5), masses(rng, 5)
    want = schrodinger_bridge([cost, cost], [a, b, a], eps=0.3).joint(0, 2)
    for costs in (cost, np.stack([cost, cost]), (cost, cost)):
        for marginals in ([a, b, a], np.array([a, b, a]), (a, b.tolist(), a)):
            np.testing.assert_array_equal(schrodinger_bridge(costs, marginals, eps=0.3).joint(0, 2), want)


def test_layouts_and_inputs_left_alone(rng):
    cost, a, b = rng.random((6, 6)), masses(rng, 6), masses(rng, 6)
    want = schrodinger_bridge([cost], [a, b], eps=0.1).coupling(0)
    locked = cost.copy()
    locked.flags.writeable = False
    doubled = np.repeat(np.repeat(cost, 2, axis=0), 2, axis=1)[::2, ::2]
    for view in (np.asfortranarray(cost), doubled, cost[::-1, ::-1].copy()[::-1, ::-1], cost.astype(">f8"), locked):
        before = view.copy()
        got = schrodinger_bridge([view], [a, np.repeat(b, 2)[::2]], eps=0.1)
        np.testing.assert_allclose(got.coupling(0), want, rtol=1e-12)
        np.testing.assert_array_equal(view, before)


@pytest.mark.parametrize("pattern", [(0, 1), (0, 2)])
def test_types(pattern, rng):
    cost = [rng.random((30, 30)) for _ in range(pattern[1])]
    marginals = [masses(rng, 30) if t in pattern else None for t in range(pattern[1] + 1)]
    exact = schrodinger_bridge(cost, marginals, eps=0.1, tol=1e-12)
    single = schrodinger_bridge(
        [np.float32(c) for c in cost], [None if m is None else np.float32(m) for m in marginals], eps=0.1, tol=1e-10
    )
    assert single.converged
    for array in (single.marginal(0), single.coupling(0), single.joint(0, 1)):
        assert array.dtype == np.float32
    assert all(f.dtype == np.float64 for f in single.potentials)
    # costs and masses are rounded to 6e-8, which moves exp(-cost / eps) by ten times that
    np.testing.assert_allclose(single.joint(0, pattern[1]), exact.joint(0, pattern[1]), rtol=1e-5)
    integers = schrodinger_bridge([np.arange(6).reshape(2, 3)], [[3, 3], [2, 2, 2]], eps=1)
    assert integers.coupling(0).dtype == np.float64


def test_torch(rng):
    torch = pytest.importorskip("torch")
    cost, a, b = (torch.from_numpy(x) for x in (rng.random((4, 5)), masses(rng, 4), masses(rng, 5)))
    bridge = schrodinger_bridge([cost], [a, b], eps=0.2)
    answers = (*bridge.potentials, bridge.marginal(0), bridge.coupling(0), bridge.sample(3, rng=1))
    assert all(isinstance(answer, torch.Tensor) for answer in answers)


SQUARE = np.zeros((2, 2))
HALF = [0.5, 0.5]


@pytest.mark.parametrize(
    ("costs", "marginals", "options", "error", "text"),
    [
        ([SQUARE], [HALF, HALF], {"eps": 0}, ValueError, "`eps` must be positive and finite, got 0"),
        ([SQUARE], [HALF, HALF], {"tol": -1.0}, ValueError, "`tol` must be at least 0 and finite, got -1.0"),
        ([SQUARE], [None, None], {}, ValueError, "`marginals` must prescribe the masses of at least one time"),
        (np.zeros((2, 3)), [HALF] * 3, {}, ValueError, r"`costs` must be square to serve 2 steps, got shape \(2, 3\)"),
        ([np.zeros((3, 2, 2))], [HALF, HALF], {}, ValueError, r"`costs\[0\]` must have 2 dimensions, got 3"),
        ([SQUARE * NAN], [HALF, HALF], {}, ValueError, r"`costs\[0\]`: `cost` must not contain nan"),
        ([SQUARE], [HALF, [1.0, 1.0]], {}, ValueError, r"`marginals\[1\]` must have the total of `marginals\[0\]`, 1, got 2"),
        ([SQUARE + 1e300], [HALF, HALF], {"eps": 1e-9}, ValueError, "`eps` must be large enough for the costs over eps"),
        ([SQUARE + INF], [HALF, HALF], {}, ValueError, "`costs` must allow a path, got none from the times before at time 1"),
        (np.array([[0, 0], [INF, INF]]), [HALF, HALF], {}, ValueError, r"`marginals\[0\]` has mass at state 1, .* to the times after"),
        ([np.array([[0, INF], [0, INF]]), np.array([[INF, 0], [0, 0]])], [HALF, None, [1, 0]], {}, ValueError, "`costs` must allow a path, got none from the times before at time 2"),
    ],
)  # fmt: skip
def test_bad_arguments(costs, marginals, options, error, text):
    with pytest.raises(error, match=f"schrodinger_bridge: {text}"):
        schrodinger_bridge(costs, marginals, **{"eps": 1.0, **options})


def test_bad_questions(rng):
    bridge = schrodinger_bridge([SQUARE], [HALF, HALF], eps=1)
    with pytest.raises(ValueError, match=r"SchrodingerBridge.coupling: `s` must be at most 0, got 1"):
        bridge.coupling(1)
    with pytest.raises(TypeError, match=r"SchrodingerBridge.joint: `t` must be an integer, got 1.5"):
        bridge.joint(0, 1.5)
