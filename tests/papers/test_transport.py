"""The papers that optimal transport serves, each in the few lines that its reader would write."""

import itertools
import tracemalloc

import numpy as np
import pytest
import scipy.optimize
from reference import transport as reference
from reference.logits import finite_difference
from reference.transport import masses, pairwise

import entropic


def logsumexp(z, axis):
    top = z.max(axis=axis, keepdims=True)
    return np.squeeze(top, axis) + np.log(np.exp(z - top).sum(axis=axis))


def linear_program(cost, a, b):
    """Least <P, cost> over the plans with masses a and b."""
    n, m = cost.shape
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    solution = scipy.optimize.linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([a, b]))
    assert solution.success
    return solution.fun


def assignment_mean(cost):
    """Least mean of cost over the permutations."""
    return cost[scipy.optimize.linear_sum_assignment(cost)].mean()


# ---- sinkhorn --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.1, 1.0])
def test_weighted_conditional_flow_matching(eps, rng):
    """Weighted Conditional Flow Matching.

    Pairs of a batch weighted by exp(-|x - y|^2 / eps): the entropic plan between tilted marginals.
    """

    def circle(angle):
        return np.stack([np.cos(angle), np.sin(angle)], axis=-1)

    def weigh(x, y):
        log_weights = -pairwise(x, y).ravel() / eps
        effective = np.exp(2 * entropic.logsumexp(log_weights) - entropic.logsumexp(2 * log_weights))
        return entropic.softmax(log_weights).reshape(len(x), len(y)), effective

    def tilt(batch):
        weights, _ = weigh(*circle(rng.uniform(0, 2 * np.pi, (2, batch))))
        return np.abs(weights.sum(axis=1) - 1 / batch).sum()

    x, y = rng.normal(size=(60, 2)), rng.normal(size=(60, 2))
    weights, effective = weigh(x, y)
    assert effective == pytest.approx(1 / np.sum(weights**2), rel=1e-12)
    result = entropic.sinkhorn(entropic.PointCloud(x, y), weights.sum(axis=1), weights.sum(axis=0), eps=eps, tol=1e-12)
    np.testing.assert_allclose(result.plan(), weights, atol=1e-11)
    # Around a circle every point sees as much: even points have no tilt, sampled ones one of order 1 / sqrt(batch).
    even = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x, y = circle(even), circle(even + 1)
    plan = entropic.sinkhorn(entropic.PointCloud(x, y), eps=eps, tol=1e-12).plan()
    np.testing.assert_allclose(plan, weigh(x, y)[0], atol=1e-11)
    assert np.mean([tilt(640) for _ in range(5)]) < 0.5 * np.mean([tilt(40) for _ in range(5)])


def test_flow_matching_pairs_sampled_from_the_plan(rng):
    """Minibatch transport, the limit of Weighted Conditional Flow Matching: a target drawn from each row of the plan."""
    x, y = rng.normal(size=(400, 2)), rng.normal(size=(300, 2)) + 2
    result = entropic.sinkhorn(entropic.PointCloud(x, y), eps=0.5)
    target = np.argmax((result.g - pairwise(x, y)) / 0.5 + rng.gumbel(size=(400, 300)), axis=1)
    mean, spread = result.barycentric_map(), result.barycentric_map(y**2) - result.barycentric_map() ** 2
    z = (y[target] - mean).sum(axis=0) / np.sqrt(spread.sum(axis=0))
    assert np.all(np.abs(z) < 5)


def test_re_basin(rng):
    """Re-basin via implicit Sinkhorn differentiation.

    Sinkhorn on C / lam with a fixed count, rounded to a permutation; W_l <- P_l W_l P_{l-1}', layer by layer.
    """
    n = 16
    layers = [rng.normal(size=shape) for shape in ((n, 5), (n, n), (3, n))]
    p, q = np.eye(n)[rng.permutation(n)], np.eye(n)[rng.permutation(n)]
    other = [p @ layers[0], q @ layers[1] @ p.T, layers[2] @ q.T]
    other = [w + 1e-3 * rng.normal(size=w.shape) for w in other]
    for k in range(2):
        result = entropic.sinkhorn(pairwise(layers[k], other[k]), eps=0.5, method="sinkhorn", tol=0, max_iter=20)
        assert result.n_iter == 20
        permutation = n * entropic.transport_exact(-result.plan()).plan.toarray()
        np.testing.assert_array_equal(np.sort(permutation, axis=1), np.tile(np.eye(n)[-1], (n, 1)))
        np.testing.assert_array_equal(permutation.sum(axis=0), 1)
        other[k], other[k + 1] = permutation @ other[k], other[k + 1] @ permutation.T
    for mine, theirs in zip(layers, other, strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-2)


def test_re_basin_implicit_gradient(rng):
    """Re-basin via implicit Sinkhorn differentiation: the gradient of |A - n P B|^2 through the plan P of C / lam."""
    n, lam, step = 6, 0.4, 1e-5
    cost, a, b = rng.random((n, n)), masses(n, rng), masses(n, rng)
    mine, theirs = rng.normal(size=(2, n, 4))

    def loss(cost, a, b):
        f, g = reference.sinkhorn(cost, a, b, lam, n_iter=300)
        return np.sum((mine - n * reference.plan(f, g, cost, a, b, lam) @ theirs) ** 2)

    result, pullback = entropic.vjp(entropic.sinkhorn, cost, a, b, eps=lam, tol=1e-12)
    residual = mine - n * result.plan() @ theirs
    gradients = pullback({"plan": -2 * n * residual @ theirs.T})
    for _ in range(4):
        directions = rng.normal(size=(n, n)), rng.normal(size=n), rng.normal(size=n)
        directions[1][:] -= directions[1].mean()  # the totals of a and b stay equal
        directions[2][:] -= directions[2].mean()
        above = loss(*(x + step * d for x, d in zip((cost, a, b), directions, strict=True)))
        below = loss(*(x - step * d for x, d in zip((cost, a, b), directions, strict=True)))
        slope = sum(np.sum(g * d) for g, d in zip(gradients, directions, strict=True))
        assert slope == pytest.approx((above - below) / (2 * step), rel=1e-6, abs=1e-6)


def test_swap(rng):
    """SWAP, Sparse Entropic Wasserstein Regression for Robust Network Pruning.

    sum P_ij (x_i . w - x_j . v)^2 + eps sum P log P + lam/2 |w - v|^2 over the w with k nonzeros, by hard thresholding.
    """
    n, p, k, eps, lam = 40, 8, 3, 1.0, 0.1
    x, v = rng.normal(size=(n, p)) / np.sqrt(p), rng.normal(size=p)
    weights = masses(n, rng)

    def solve(w, init=None):
        cloud = entropic.PointCloud((x @ w)[:, None], (x @ v)[:, None])
        result = entropic.sinkhorn(cloud, weights, weights, eps=eps, tol=1e-11, init=init)
        gradient = 2 * x.T @ (weights * (x @ w) - result.apply(x @ v)) + lam * (w - v)
        return result, gradient

    def objective(w):
        cost = pairwise((x @ w)[:, None], (x @ v)[:, None])
        f, g = reference.sinkhorn(cost, weights, weights, eps, n_iter=400)
        plan = reference.plan(f, g, cost, weights, weights, eps)
        return np.sum(plan * cost) + eps * np.sum(plan * np.log(plan)) + lam / 2 * np.sum((w - v) ** 2)

    w, init = v.copy(), None
    for _ in range(8):
        warm, gradient = solve(w, init)
        cold, _ = solve(w)
        assert warm.value == pytest.approx(cold.value, abs=1e-9)
        np.testing.assert_allclose(warm.plan(), cold.plan(), atol=1e-9)
        w = w - 0.2 * gradient
        w[np.argsort(np.abs(w))[:-k]] = 0
        init = warm.f, warm.g
    assert np.count_nonzero(w) == k
    result, gradient = solve(w)
    entropy = 2 * eps * np.sum(weights * np.log(weights))
    assert result.value + entropy + lam / 2 * np.sum((w - v) ** 2) == pytest.approx(objective(w), abs=1e-9)
    np.testing.assert_allclose(gradient, finite_difference(objective, w, 1.0), rtol=1e-6, atol=1e-7)


def test_swap_never_stores_the_cost(rng):
    """SWAP: thousands of projections a side, in the memory of their potentials."""
    projections = rng.normal(size=(2, 2000, 1))
    tracemalloc.start()
    result = entropic.sinkhorn(entropic.PointCloud(*projections), eps=2.0)
    result.apply(projections[1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.converged
    assert peak < 1e6  # the cost would be 32 MB


def test_reg_gs(rng):
    """RegGS, registration of Gaussian splats: eps 0.1, Bures cost, gradient to the pose."""
    n, m, eps = 20, 25, 0.1
    means_a, means_b = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
    factors_a, factors_b = rng.normal(size=(n, 3, 3)), rng.normal(size=(m, 3, 3))
    covs_a, covs_b = factors_a @ factors_a.transpose(0, 2, 1), factors_b @ factors_b.transpose(0, 2, 1)

    def moved(pose):
        c, s = np.cos(pose[3]), np.sin(pose[3])
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        return turn, means_b @ turn.T + pose[:3], turn @ covs_b @ turn.T

    def value(pose):
        _, means, covs = moved(pose)
        return entropic.sinkhorn(entropic.bures_cost(means_a, covs_a, means, covs), eps=eps, tol=1e-13).value

    pose = np.array([0.3, -0.2, 0.5, 0.7])
    _, means, covs = moved(pose)
    cost, pullback = entropic.vjp(entropic.bures_cost, means_a, covs_a, means, covs)
    _, _, by_means, by_covs = pullback(entropic.sinkhorn(cost, eps=eps, tol=1e-11).plan())
    spin = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 0]])  # the derivative of the turn is spin @ turn
    by_angle = np.sum(by_means * ((means - pose[:3]) @ spin.T)) + np.sum(by_covs * (spin @ covs + covs @ spin.T))
    gradient = np.append(by_means.sum(axis=0), by_angle)
    np.testing.assert_allclose(gradient, finite_difference(value, pose, 1.0), rtol=1e-6, atol=1e-7)

    # covariances that commute: the distance of the square roots of their eigenvalues
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    widths_a, widths_b = rng.random((n, 3)), rng.random((m, 3))
    covs_a, covs_b = ((axes * widths[:, None, :] ** 2) @ axes.T for widths in (widths_a, widths_b))
    cost = entropic.bures_cost(means_a, covs_a, means_b, covs_b)
    np.testing.assert_allclose(cost, pairwise(means_a, means_b) + pairwise(widths_a, widths_b), rtol=1e-10)


def test_wast_3d(rng):
    """WaSt-3D, style transfer by entropic W2 of features: all chunks in one call, gradient to the points."""
    x, y = rng.normal(size=(4, 15, 3)), rng.normal(size=(4, 12, 3)) + 1
    chunks = entropic.sinkhorn(entropic.PointCloud(x, y), eps=0.3, tol=1e-13)
    gradient = 2 * (x - chunks.barycentric_map()) / 15
    for k in range(4):
        whole = entropic.sinkhorn(entropic.PointCloud(x[k], y[k]), eps=0.3, tol=1e-13)
        assert chunks.value[k] == pytest.approx(whole.value, rel=1e-10)

    def value(x0):
        return entropic.sinkhorn(pairwise(x0, y[0]), eps=0.3, tol=1e-13).value

    np.testing.assert_allclose(gradient[0], finite_difference(value, x[0], 1.0), rtol=1e-6, atol=1e-8)


def test_dot_resize(rng):
    """DOTResize, width reduction of a network: the plan from n neurons to the k kept merges their weights."""
    k, copies = 7, 5
    n, kept = k * copies, np.arange(k) * copies
    neurons = np.repeat(rng.normal(size=(k, 50)), copies, axis=0)  # activations on 50 tokens
    outgoing = rng.normal(size=(4, n))
    result = entropic.sinkhorn(entropic.PointCloud(neurons, neurons[kept], metric="manhattan"), eps=0.5, tol=1e-12)
    plan = result.plan()
    np.testing.assert_allclose(plan.sum(axis=1), np.full(n, 1 / n), rtol=1e-10)
    np.testing.assert_allclose(plan.sum(axis=0), np.full(k, 1 / k), rtol=1e-10)
    # neurons that are copies of the kept ones: the small layer computes what the large one did
    np.testing.assert_allclose((outgoing @ (n * plan)) @ neurons[kept], outgoing @ neurons, rtol=1e-9, atol=1e-9)


def test_class_relation_distillation(rng):
    """Class-relation distillation: targets by 3 Sinkhorn iterations of logits / 0.05, samples scaled last."""
    logits = rng.normal(size=(64, 10)) * 0.3
    result = entropic.sinkhorn(-logits.T, eps=0.05, method="sinkhorn", tol=0, max_iter=3)
    targets = 64 * result.plan().T

    q = np.exp(logits.T / 0.05)
    for _ in range(3):
        q /= q.sum(axis=1, keepdims=True) * 10
        q /= q.sum(axis=0, keepdims=True) * 64
    np.testing.assert_allclose(targets, 64 * q.T, rtol=1e-11)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-13)


def neural_sort_plans(scores, mask, tau, tol):
    """Relaxed permutations (B, n, n), rows in falling order of the scores; one call for lists of any lengths."""
    count = mask.sum(axis=1)[:, None, None]
    spread = (np.abs(scores[:, :, None] - scores[:, None, :]) * mask[:, None, :]).sum(axis=2)
    rank = np.arange(1, scores.shape[1] + 1)[:, None]
    cost = spread[:, None, :] - (count + 1 - 2 * rank) * scores[:, None, :]
    share = mask / mask.sum(axis=1, keepdims=True)
    return count * entropic.sinkhorn(cost, share, share, eps=tau, method="sinkhorn", tol=tol, max_iter=50).plan()


def test_neural_ndcg(rng):
    """NeuralNDCG: row softmax(((n + 1 - 2i) s - sum |s - s_k|) / tau), then at most 50 rescalings; lists are padded."""
    lengths = np.array([9, 4, 7])
    mask = (np.arange(9) < lengths[:, None]).astype(float)
    scores = np.array([np.pad(rng.permutation(n) * 0.3, (0, 9 - n)) for n in lengths])
    gains = 2.0 ** rng.integers(0, 5, (3, 9)) * mask
    soft, sharp = neural_sort_plans(scores, mask, 1.0, tol=0), neural_sort_plans(scores, mask, 0.01, tol=1e-6)
    discounts = 1 / np.log2(np.arange(2, 11))
    for list_, n in enumerate(lengths):
        s = scores[list_, :n]
        logits = (n + 1 - 2 * np.arange(1, n + 1)[:, None]) * s - np.abs(s[:, None] - s).sum(axis=1)
        q = np.exp(logits - logits.max(axis=1, keepdims=True))
        for _ in range(50):
            q /= q.sum(axis=1, keepdims=True)
            q /= q.sum(axis=0, keepdims=True)
        np.testing.assert_allclose(soft[list_, :n, :n], q, rtol=1e-9)
        for plans in (soft, sharp):
            assert not plans[list_, n:].any()
            assert not plans[list_, :, n:].any()
        # tau to 0: the permutation that sorts, and the true DCG
        order = np.argsort(-s)
        np.testing.assert_allclose(sharp[list_, :n, :n], np.eye(n)[order], atol=1e-6)
        dcg = discounts @ (sharp[list_] @ gains[list_])
        assert dcg == pytest.approx(discounts[:n] @ gains[list_, order], rel=1e-5)


# ---- divergences and other forms -------------------------------------------------------------------------------------


def test_wasserstein_dependency_measure(rng):
    """Wasserstein Dependency Measure.

    W1(p(x, y), p(x) p(y)), by shuffled pairs or with all pairs; a 1-Lipschitz f has E f - log E e^f below it.
    """
    corners = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])

    def dependency(table):
        product = np.outer(table.sum(axis=1), table.sum(axis=0)).ravel()
        return entropic.transport_exact(
            entropic.PointCloud(corners, corners, "manhattan"), table.ravel(), product
        ).value

    for c in (0.2, -0.1):  # of two fair bits, mass 2 |c| moves by 1
        assert dependency(np.array([[0.25 + c, 0.25 - c], [0.25 - c, 0.25 + c]])) == pytest.approx(2 * abs(c), abs=1e-9)
    assert dependency(np.outer([0.3, 0.7], [0.6, 0.4])) == pytest.approx(0, abs=1e-9)

    def sampled(x, y):
        joint, shuffled = np.stack([x, y], axis=1), np.stack([x, rng.permutation(y)], axis=1)
        exact = entropic.transport_exact(entropic.PointCloud(joint, shuffled, "euclidean"))
        assert exact.value == pytest.approx(assignment_mean(pairwise(joint, shuffled, "euclidean")), rel=1e-9)

        def critic(z):
            return np.min(pairwise(z, shuffled, "euclidean") - exact.g, axis=1)

        f_joint, f_shuffled = critic(joint), critic(shuffled)
        assert f_joint.mean() - f_shuffled.mean() == pytest.approx(exact.value, rel=1e-9)
        assert f_joint.mean() - entropic.logmeanexp(f_shuffled) <= exact.value
        return exact.value

    x, y = rng.normal(size=(2, 300))
    assert sampled(x, y) < 0.5 * sampled(x, x + 0.2 * y)


def power_cost(x, y):
    """|x - y|^3, a cost that no metric of the package has."""
    return pairwise(x, y, "euclidean") ** 3


@pytest.mark.parametrize("cost", [pairwise, power_cost])
def test_monge_gap(cost, rng):
    """Monge Gap: E c(x, T(x)) - W_eps(rho, T#rho) for any cost; 0 at an optimal map."""

    def gap(x, y):
        return np.diagonal(cost(x, y)).mean() - entropic.transport_exact(cost(x, y)).value

    x = rng.normal(size=(6, 2))
    permutations = np.array(list(itertools.permutations(range(6))))
    for _ in range(5):
        y = rng.normal(size=(6, 2))
        least = cost(x, y)[np.arange(6), permutations].mean(axis=1).min()
        assert gap(x, y) == pytest.approx(np.diagonal(cost(x, y)).mean() - least, rel=1e-9, abs=1e-12)
        assert gap(x, y) >= -1e-12
    x = rng.normal(size=(80, 2))
    assert gap(x, x + np.array([3.0, -1])) == pytest.approx(0, abs=1e-10)
    assert gap(x, x @ [[0, 1], [-1, 0]]) > 0.1  # a quarter turn
    if cost is pairwise:
        assert gap(x, x @ [[2.0, 0.5], [0.5, 1]]) == pytest.approx(0, abs=1e-10)  # the gradient of a convex function


def test_monge_gap_fit(rng):
    """Monge Gap: an affine T fitted by S_eps(T#mu, nu) + lam gap, whose gradients are those of the three plans."""
    n, eps, lam = 30, 0.3, 1.0
    x = rng.normal(size=(n, 2))
    inputs = np.column_stack([x, np.ones(n)])
    target = rng.normal(size=(n, 2)) * [1.5, 0.7] + 1

    def loss(theta):
        y = inputs @ theta
        fit = entropic.sinkhorn_divergence(y, target, eps=eps, tol=1e-11)
        plan, pullback = entropic.vjp(entropic.sinkhorn, pairwise(x, y), eps=eps, tol=1e-11)
        (by_cost,) = pullback(-lam)
        gap = np.diagonal(pairwise(x, y)).mean() - plan.value
        by_y = 2 / n * (fit.xx.barycentric_map() - fit.xy.barycentric_map()) + 2 * lam / n * (y - x)
        by_y += 2 * (by_cost.sum(axis=0)[:, None] * y - by_cost.T @ x)
        return fit.value + lam * gap, inputs.T @ by_y

    theta = np.array([[0.0, 1], [-1, 0], [0, 0]])  # a quarter turn
    before, gradient = loss(theta)
    slopes = finite_difference(lambda theta: loss(theta)[0], theta, 1.0, step=1e-3)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-4)
    for _ in range(40):
        theta = theta - 0.2 * loss(theta)[1]
    assert loss(theta)[0] < 0.2 * before
    linear = theta[:2]
    assert np.linalg.eigvalsh(linear + linear.T).min() > 0  # the turn is gone


def test_pulaski(rng):
    """PULASki, samples of segmentations of shape (B, K, HW).

    Sinkhorn divergence with p = 2 and a blur, energy distance, Frechet distance of the sets.
    """
    blur = 0.5
    x, y = rng.normal(size=(3, 5, 400)) * 0.1, rng.normal(size=(3, 6, 400)) * 0.1 + 0.05
    divergence = entropic.sinkhorn_divergence(x, y, eps=2 * blur**2).value / 2  # for the cost |x - y|^2 / 2
    same = entropic.sinkhorn_divergence(x, x[:, ::-1], eps=2 * blur**2).value
    np.testing.assert_allclose(same, 0, atol=1e-6)
    energy = entropic.sinkhorn_divergence(x, y, eps=1e7, metric="euclidean").value

    def entropic_value(x, y):
        cost, a, b = pairwise(x, y) / 2, np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
        plan = reference.plan(*reference.sinkhorn(cost, a, b, blur**2), cost, a, b, blur**2)
        return reference.objective(plan, cost, a, b, blur**2)

    def debiased(value, x, y):
        return value(x, y) - value(x, x) / 2 - value(y, y) / 2

    for k in range(3):
        assert divergence[k] == pytest.approx(debiased(entropic_value, x[k], y[k]), abs=1e-6)
        mean_distance = debiased(lambda x, y: pairwise(x, y, "euclidean").mean(), x[k], y[k])
        assert energy[k] == pytest.approx(mean_distance, abs=1e-6)

    # sets whose covariances commute: (sqrt l - sqrt l')^2 on the common axes
    axes, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    signs = np.array(list(itertools.product([-1.0, 1], repeat=6)))
    widths, shift = rng.random((2, 6)), rng.normal(size=6)
    x, y = (signs * widths[0]) @ axes, (signs * widths[1]) @ axes + shift
    frechet = entropic.gaussian_transport(x.mean(0), np.cov(x.T, ddof=0), y.mean(0), np.cov(y.T, ddof=0)).value
    assert frechet == pytest.approx(shift @ shift + np.sum((widths[0] - widths[1]) ** 2), rel=1e-10)


def generalized_sum_pooling(cost, mu, gamma):
    """Transport plans (B, m, n) from prototypes to features: min <C, P> + (sum P log P + sum r log r) / gamma.

    Row masses are free, so one row c_j = -LSE_i(-gamma C_ij) / gamma stands for all, and a second one for the rest r.
    """
    c = -entropic.logsumexp(-gamma * cost, axis=1) / gamma
    pair = entropic.sinkhorn(np.stack([c, np.zeros_like(c)], axis=1), [mu, 1 - mu], eps=1 / gamma, tol=1e-13).plan()
    return pair[:, :1] * entropic.softmax(-gamma * cost, axis=1)


def generalized_sum_pooling_by_iteration(cost, mu, gamma):
    kernel = np.exp(-gamma * cost)
    n = cost.shape[-1]
    a = np.full((len(cost), 1, n), 1 / n)
    for _ in range(300):
        t = mu / (a * kernel).sum(axis=(1, 2), keepdims=True)
        a = 1 / n / (1 + t * kernel.sum(axis=1, keepdims=True))
    return mu / (a * kernel).sum(axis=(1, 2), keepdims=True) * kernel * a


def test_generalized_sum_pooling(rng):
    """Generalized Sum Pooling: r_j + sum_i P_ij = 1/n, sum P = mu; features weighted by sum_i P_ij / mu."""
    mu, gamma, n = 0.3, 5.0, 9
    features, prototypes = rng.normal(size=(8, 4, 3, 3)), rng.normal(size=(5, 4))
    x = features.reshape(8, 4, n).transpose(0, 2, 1)
    cost = np.array([pairwise(prototypes, xb) for xb in x])
    plan = generalized_sum_pooling(cost, mu, gamma)

    np.testing.assert_allclose(plan, generalized_sum_pooling_by_iteration(cost, mu, gamma), rtol=1e-9, atol=1e-15)
    pooled = np.einsum("bij,bjd->bd", generalized_sum_pooling(cost, 1.0, gamma), x)
    np.testing.assert_allclose(pooled, features.mean(axis=(2, 3)), rtol=1e-10)  # mu = 1 is average pooling


def test_generalized_sum_pooling_gradient(rng):
    """Generalized Sum Pooling: gradients through the plan to the features, for 8 maps of 4 channels, 3 by 3."""
    mu, gamma, n, step = 0.3, 5.0, 9, 1e-5
    x, prototypes, upstream = rng.normal(size=(8, n, 4)), rng.normal(size=(5, 4)), rng.normal(size=(8, 4))

    def pooled(x):
        cost = np.sum((prototypes[:, None] - x[:, None]) ** 2, axis=3)
        return np.einsum("bij,bjd->bd", generalized_sum_pooling_by_iteration(cost, mu, gamma), x) / mu

    cost = np.array([pairwise(prototypes, xb) for xb in x])
    c, from_c = entropic.vjp(entropic.logsumexp, -gamma * cost, axis=1)
    shares, from_shares = entropic.vjp(entropic.softmax, -gamma * cost, axis=1)
    pair_cost = np.stack([-c / gamma, np.zeros_like(c)], axis=1)
    masses_ = np.array([mu, 1 - mu]), np.full(n, 1 / n)
    result, from_plan = entropic.vjp(entropic.sinkhorn, pair_cost, *masses_, eps=1 / gamma, tol=1e-13)
    taken = result.plan()[:, :1]
    by_plan = np.broadcast_to((x @ upstream[:, :, None] / mu).transpose(0, 2, 1), cost.shape)
    by_taken = np.sum(by_plan * shares, axis=1, keepdims=True)
    by_pair_cost = from_plan({"plan": np.concatenate([by_taken, np.zeros_like(by_taken)], axis=1)})[0]
    by_cost = from_c(by_pair_cost[:, 0])[0] - gamma * from_shares(by_plan * taken)[0]
    weights = (taken * shares).sum(axis=1)
    by_x = 2 * (by_cost.sum(axis=1)[:, :, None] * x - by_cost.transpose(0, 2, 1) @ prototypes)
    by_x += weights[:, :, None] * upstream[:, None] / mu
    for _ in range(5):
        direction = rng.normal(size=x.shape)
        slope = np.sum(upstream * (pooled(x + step * direction) - pooled(x - step * direction))) / (2 * step)
        assert np.sum(by_x * direction) == pytest.approx(slope, rel=1e-6, abs=1e-6)


def sparse_semi_dual(alpha, cost, a, b, k, gamma):
    """<alpha, a> - sum_j Omega*(alpha - c_j): the k largest scores of each column, projected on the simplex of b_j."""
    top = np.sort(alpha[:, None] - cost, axis=0)[::-1][:k]
    count = np.arange(1, k + 1)[:, None]
    threshold = np.max((np.cumsum(top, axis=0) - gamma * b) / count, axis=0)
    t = np.maximum(top - threshold, 0) / gamma
    np.testing.assert_allclose(t.sum(axis=0), b, rtol=1e-9)
    return alpha @ a - np.sum(top * t - gamma / 2 * t**2)


@pytest.mark.parametrize("k", [3, 12])
def test_sparsity_constrained_transport(k, rng):
    """Sparsity-Constrained Optimal Transport.

    max over alpha of <alpha, a> - sum_j Omega*(alpha - c_j), Omega = gamma/2 |t|^2 with at most k nonzeros.
    """
    cost, a, b, gamma = rng.random((12, 10)), masses(12, rng), masses(10, rng), 4.0
    result = entropic.sparse_transport(cost, a, b, k=k, gamma=gamma, tol=1e-9)
    plan = result.plan()
    assert np.count_nonzero(plan, axis=0).max() <= k
    np.testing.assert_allclose(plan.sum(axis=0), b, rtol=1e-10)
    np.testing.assert_allclose(plan.sum(axis=1), a, atol=1e-8)
    value = np.sum(plan * cost) + gamma / 2 * np.sum(plan**2)
    best = sparse_semi_dual(result.f, cost, a, b, k, gamma)
    assert result.dual_value == pytest.approx(best, abs=1e-12)
    for scale in np.geomspace(1e-3, 1, 50):  # the semi-dual is concave: a maximum nearby is the maximum
        assert sparse_semi_dual(result.f + scale * rng.normal(size=12), cost, a, b, k, gamma) < best + 1e-9
    assert best <= value + 1e-9
    if k == 12:  # nothing is constrained, and the two prove each other
        assert value == pytest.approx(best, abs=1e-8)


def test_sparsity_constrained_transport_to_one_each(rng):
    """Sparsity-Constrained Optimal Transport: for k = 1 the quadratic term is a constant, and transport plain."""
    cost, gamma = rng.random((8, 8)), 2.0
    result = entropic.sparse_transport(cost, k=1, gamma=gamma)
    exact = assignment_mean(cost)
    assert result.dual_value == pytest.approx(exact + gamma / 2 / 8, abs=1e-9)
    assert np.sum(result.plan() * cost) == pytest.approx(exact, rel=1e-9)
    np.testing.assert_array_equal(np.count_nonzero(result.plan(), axis=0), 1)


def class_transport(cost, a, b, labels, lam, *, eps=1.0, steps=1000):
    """<P, C> + lam sum over pairs of one class of |P_i - P_k|_2: primal-dual steps, proximal in KL by Sinkhorn."""
    first, second = np.nonzero(np.triu(labels[:, None] == labels, 1))
    incidence = np.zeros((len(first), len(labels)))
    incidence[np.arange(len(first)), first], incidence[np.arange(len(first)), second] = 1, -1
    step = eps / (np.bincount(labels).max() * a.max())
    plan, dual, total = np.outer(a, b), np.zeros((len(first), len(b))), 0.0
    for _ in range(steps):
        total = total + cost + incidence.T @ dual  # proximal steps in KL add up in the cost
        before, plan = plan, entropic.sinkhorn(total, a, b, eps=eps, tol=1e-9).plan()
        dual = dual + step * incidence @ (2 * plan - before)
        dual *= np.minimum(1, lam / np.maximum(np.linalg.norm(dual, axis=1, keepdims=True), 1e-300))
    value = np.sum(plan * cost) + lam * np.linalg.norm(incidence @ plan, axis=1).sum()
    return value, cost + incidence.T @ dual


@pytest.mark.parametrize("lam", [0.0, 0.3, 5.0])
def test_class_based_transport(lam, rng):
    """Class-based transport: plans whose rows of one class are alike, by proximal steps; not entropic."""
    labels, a, b = np.array([0, 0, 1, 1, 1, 2]), np.full(6, 1 / 6), masses(5, rng)
    cost = rng.random((6, 5))
    value, dual_cost = class_transport(cost, a, b, labels, lam)
    # any dual point makes a linear program that bounds the optimum from below: the two prove each other
    assert -1e-8 <= value - linear_program(dual_cost, a, b) <= 1e-3
    if lam == 0:
        assert value == pytest.approx(linear_program(cost, a, b), abs=1e-3)
    if lam == 5.0:  # rows of one class are equal
        means = np.array([cost[labels == k].mean(axis=0) for k in range(3)])
        assert value == pytest.approx(linear_program(means, np.bincount(labels) / 6, b), abs=1e-3)


def test_time_series_with_wasserstein_loss(rng):
    """Time series with Wasserstein loss: sum_i p_i |v_i - v_y|^q, or sum |CDF_p - CDF_q| dv, over ordered bins."""
    values, logits = np.sort(rng.normal(size=8)), rng.normal(size=(5, 8))
    target = rng.integers(0, 8, 5)
    p = entropic.softmax(logits, axis=1)
    for q in (1, 2, 3):
        loss = entropic.wasserstein_1d(values, values[target, None], p, p=q) ** q
        np.testing.assert_allclose(loss, np.sum(p * np.abs(values - values[target, None]) ** q, axis=1), rtol=1e-10)
        soft = masses(8, rng)
        for k in range(5):
            program = linear_program(np.abs(values[:, None] - values) ** q, p[k], soft)
            assert entropic.wasserstein_1d(values, values, p[k], soft, p=q) ** q == pytest.approx(program, rel=1e-8)

    def cdf_loss(logits):
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return (np.abs(np.cumsum(p - soft, axis=1)[:, :-1]) * np.diff(values)).sum(axis=1)

    p, to_logits = entropic.vjp(entropic.softmax, logits, axis=1)
    loss, to_masses = entropic.vjp(entropic.wasserstein_1d, values, values, p, soft, p=1)
    np.testing.assert_allclose(loss, cdf_loss(logits), rtol=1e-10)
    (gradient,) = to_logits(to_masses(np.ones(5))[2])
    np.testing.assert_allclose(gradient, finite_difference(cdf_loss, logits, np.ones(5)), rtol=1e-6, atol=1e-9)


def test_efficient_transport_and_functional_maps(rng):
    """Efficient transport and functional maps: the mean W2^2 of projections, at most W2^2, and equal on the line."""
    x, y = rng.normal(size=(60, 3)), rng.normal(size=(60, 3)) * [1, 2, 0.5] + 1
    sliced = entropic.sliced_wasserstein(x, y, n_projections=200, rng=rng)
    assert 0 < sliced**2 <= assignment_mean(pairwise(x, y))
    line = entropic.sliced_wasserstein(x[:, :1], y[:, :1])
    assert line**2 == pytest.approx(assignment_mean(pairwise(x[:, :1], y[:, :1])), rel=1e-10)
    # a shift is seen by its length along each direction, t . shift: a third of its square on average in 3-D
    shifts = [
        entropic.sliced_wasserstein(x, x + np.array([3.0, 4, 0]), n_projections=500, rng=rng) ** 2 for _ in range(8)
    ]
    assert abs(np.mean(shifts) - 25 / 3) < 5 * np.std(shifts, ddof=1) / np.sqrt(8)


def test_energy_guided_neural_transport(rng):
    """Energy-guided neural transport: f^C(x) = -eps log E_y e^((f(y) - c(x, y)) / eps), from samples of y."""
    x, y, f, eps = rng.normal(size=(20, 2)), rng.normal(size=(30, 2)), rng.normal(size=30), 0.4
    cost = pairwise(x, y)

    def transform(f, eps):
        return -eps * entropic.logmeanexp((f - cost) / eps, axis=1)

    direct = -eps * np.log(np.mean(np.exp((f - cost) / eps), axis=1))
    np.testing.assert_allclose(transform(f, eps), direct, rtol=1e-12)
    np.testing.assert_allclose(transform(f, 1e-6), np.min(cost - f, axis=1), atol=1e-5)
    value, gradient = entropic.semidual(
        entropic.PointCloud(x, y), f, eps=eps
    )  # <1/n, f^C> + <1/m, f>, as it is trained
    assert value == pytest.approx(direct.mean() + f.mean(), rel=1e-12)
    slope = finite_difference(lambda f: np.mean(-eps * np.log(np.mean(np.exp((f - cost) / eps), axis=1))), f, 1.0)
    np.testing.assert_allclose(gradient, slope + 1 / 30, rtol=1e-6, atol=1e-9)
    _, pullback = entropic.vjp(entropic.logmeanexp, (f - cost) / eps, axis=1)
    (by_score,) = pullback(np.full(20, -eps / 20))
    np.testing.assert_allclose(by_score.sum(axis=0) / eps, slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("eps", [0.02, 0.5])
def test_entropic_transport_via_diffusions(eps):
    """Entropic transport via diffusions: ground truth at small eps, between Gaussians in closed form."""
    t = np.linspace(-10, 11, 421)
    mean_a, mean_b, variance_a, variance_b = -0.5, 1.0, 0.8, 1.5
    a, b = np.exp(-((t - mean_a) ** 2) / (2 * variance_a)), np.exp(-((t - mean_b) ** 2) / (2 * variance_b))
    a, b = a / a.sum(), b / b.sum()
    grid = entropic.sinkhorn(entropic.Grid(t), a, b, eps=eps, tol=1e-11)
    truth = entropic.gaussian_transport([mean_a], [[variance_a]], [mean_b], [[variance_b]], eps=eps)
    # cross-covariance from the quadratic in its definition: s^2 + s eps / 2 = variance_a variance_b
    cross = -eps / 4 + np.sqrt(eps**2 / 16 + variance_a * variance_b)
    mutual_information = -np.log(1 - cross**2 / (variance_a * variance_b)) / 2
    value = (mean_a - mean_b) ** 2 + variance_a + variance_b - 2 * cross + eps * mutual_information
    assert truth.value == pytest.approx(value, rel=1e-10)
    assert grid.value == pytest.approx(value, rel=1e-8)
    assert a @ (t * grid.barycentric_map(t[:, None])[:, 0]) - mean_a * mean_b == pytest.approx(cross, rel=1e-8)


def random_network(rng, n=6):
    """Prior transitions, most of them 0, and a cost; every node has a loop and an edge to the next one."""
    edges = (rng.random((n, n)) < 0.25) | np.eye(n, dtype=bool) | np.roll(np.eye(n, dtype=bool), 1, axis=1)
    prior = rng.random((n, n)) * edges
    return prior / prior.sum(axis=1, keepdims=True), rng.random((n, n))


def imitation_transport(prior, cost, start, end, steps, alpha, tol):
    """E cost + alpha KL(P || prior chain): a bridge whose costs hold the log of the prior, inf where that is 0."""
    log_prior = np.log(prior, out=np.full(prior.shape, -np.inf), where=prior > 0)
    free = [None] * (steps - 1)
    return entropic.schrodinger_bridge([cost - alpha * log_prior] * steps, [start, *free, end], eps=alpha, tol=tol)


def test_imitation_regularized_transport_on_networks(rng):
    """Imitation-regularized transport on networks: E cost + alpha KL(P || prior chain), both endpoints fixed."""
    prior, cost = random_network(rng)
    start, end, alpha, steps = np.array([0.6, 0.4, 0, 0, 0, 0]), np.array([0, 0, 0, 0.2, 0.5, 0.3]), 0.3, 5
    bridge = imitation_transport(prior, cost, start, end, steps, alpha, tol=1e-12)

    # every path, weighted by prior e^(-cost / alpha), its ends scaled until they fit
    paths = np.array(list(itertools.product(range(6), repeat=steps + 1)))
    edges = paths[:, :-1], paths[:, 1:]
    chain, path_cost = prior[edges].prod(axis=1), cost[edges].sum(axis=1)
    paths, chain, path_cost = paths[chain > 0], chain[chain > 0], path_cost[chain > 0]
    law = chain * np.exp(-path_cost / alpha)
    for _ in range(500):
        for masses_, t in ((start, 0), (end, -1)):
            found = np.bincount(paths[:, t], law, 6)
            law *= np.divide(masses_, found, out=np.zeros(6), where=found > 0)[paths[:, t]]
    assert np.abs(np.bincount(paths[:, 0], law, 6) - start).sum() < 1e-12
    for t in range(steps):
        flow = np.zeros((6, 6))
        np.add.at(flow, (paths[:, t], paths[:, t + 1]), law)
        np.testing.assert_allclose(bridge.coupling(t), flow, rtol=1e-8, atol=1e-12)
    used = law > 0
    value = law @ path_cost + alpha * law[used] @ np.log(law[used] / chain[used])
    assert bridge.value == pytest.approx(value, rel=1e-9)


def test_imitation_regularized_transport_on_long_paths(rng):
    """Imitation-regularized transport on networks: hundreds of steps, whose path weights underflow."""
    prior, cost = random_network(rng)
    start, end = np.array([0.6, 0.4, 0, 0, 0, 0]), np.array([0, 0, 0, 0.2, 0.5, 0.3])
    bridge = imitation_transport(prior, cost + 1, start, end, 300, 0.1, tol=1e-9)
    flows = [bridge.coupling(t) for t in range(300)]
    np.testing.assert_allclose(flows[0].sum(axis=1), start, atol=1e-9)
    np.testing.assert_allclose(flows[-1].sum(axis=0), end, atol=1e-9)
    for arrives, leaves in itertools.pairwise(flows):
        np.testing.assert_allclose(arrives.sum(axis=0), leaves.sum(axis=1), atol=1e-11)
        assert not leaves[prior == 0].any()


def test_inverse_transport_sparsistency(rng):
    """Inverse transport, sparsistency: <c_A, pi> - W_eps(c_A) + lam |A|_1, c_A = x'Ay; Gaussians in closed form."""
    eps, cross = 0.5, np.array([[0.6, 0.0], [0.0, -0.4]])
    precision = np.linalg.inv(np.block([[np.eye(2), cross], [cross.T, np.eye(2)]]))
    x = np.array(list(itertools.product(np.linspace(-2.5, 2.5, 9), repeat=2)))
    pairs = np.concatenate([np.repeat(x, 81, axis=0), np.tile(x, (81, 1))], axis=1)
    plan = np.exp(-0.5 * np.einsum("pi,ij,pj->p", pairs, precision, pairs)).reshape(81, 81)
    plan /= plan.sum()
    # a Gaussian on a grid is u(x) v(y) exp(-x' B y), B the precision between x and y: the plan of A = eps B
    exact = entropic.inverse_transport(plan, (x, x), eps=eps, tol=1e-9)
    np.testing.assert_allclose(exact.parameters, eps * precision[:2, 2:], atol=1e-7)

    seen, penalty = rng.multinomial(20_000, plan.ravel()).reshape(81, 81) / 20_000, 0.05
    found = entropic.inverse_transport(seen, (x, x), eps=eps, penalty=penalty, tol=1e-8)
    np.testing.assert_array_equal(np.sign(found.parameters), np.sign(np.round(eps * precision[:2, 2:], 9)))
    model = entropic.sinkhorn(x @ found.parameters @ x.T, seen.sum(axis=1), seen.sum(axis=0), eps=eps, tol=1e-11).plan()
    gradient = x.T @ (seen - model) @ x
    np.testing.assert_allclose(np.diagonal(gradient), -penalty * np.sign(np.diagonal(found.parameters)), atol=1e-6)
    assert np.abs(gradient).max() <= penalty + 1e-6
