"""Entropic transport from its definitions: plain loops in float64, 50 digits for tiny problems, and the closed forms.

A plan is P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps). Its cost is <P, C> + eps KL(P | a b^T), with
KL(p | q) = sum p log(p / q) - p + q, plus a penalty for each side whose marginal is free to move.
"""

import math

import mpmath
import numpy as np

BALANCED = (math.inf, math.inf)


# ---- costs -----------------------------------------------------------------------------------------------------------


def pairwise(x, y, metric="sqeuclidean"):
    """The cost matrix of two clouds."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    difference = x[:, None, :] - y[None, :, :]
    if metric == "sqeuclidean":
        return np.sum(difference**2, axis=2)
    if metric == "euclidean":
        return np.sqrt(np.sum(difference**2, axis=2))
    if metric == "manhattan":
        return np.sum(np.abs(difference), axis=2)
    if metric == "dot":
        return -(x @ y.T)
    if metric == "cosine":
        lengths = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)[None, :]
        return 1 - (x @ y.T) / lengths
    raise ValueError(metric)


# ---- the plain loop --------------------------------------------------------------------------------------------------


def logsumexp(x, axis):
    top = np.max(x, axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):
        return np.log(np.sum(np.exp(x - top), axis=axis)) + np.squeeze(top, axis)


def log_density(f, g, cost, eps):
    """(f_i + g_j - C_ij) / eps; a forbidden pair has -inf, whatever the potentials are."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(cost), -np.inf, (f[:, None] + g[None, :] - cost) / eps)


def log_plan(f, g, cost, a, b, eps):
    with np.errstate(divide="ignore", invalid="ignore"):
        log_masses = np.log(a)[:, None] + np.log(b)[None, :]
        return np.where(np.outer(a, b) == 0, -np.inf, log_masses + log_density(f, g, cost, eps))


def plan(f, g, cost, a, b, eps):
    return np.exp(log_plan(f, g, cost, a, b, eps))


def softmin_rows(g, cost, b, eps):
    """-eps log sum_j b_j exp((g_j - C_ij) / eps)."""
    return -eps * logsumexp(log_plan(np.zeros(len(cost)), g, cost, np.ones(len(cost)), b, eps), axis=1)


def softmin_columns(f, cost, a, eps):
    return softmin_rows(f, cost.T, a, eps)


def relaxed(s, eps, rho, relaxation):
    """The potential that is best for one side, where balanced transport would take `s`."""
    if relaxation == "range":
        low, high = (math.log(factor) if factor else -math.inf for factor in rho)
        return s + eps * np.clip(-s / eps, low, high)
    if rho == math.inf:
        return s
    if relaxation == "tv":
        return np.clip(s, -rho, rho)
    return s * (rho / (rho + eps))


def _sides(rho, relaxation):
    """What each side's penalty takes: the two factors of a range belong to both sides."""
    return (rho, rho) if relaxation == "range" else rho


def sinkhorn(cost, a, b, eps, *, rho=BALANCED, relaxation="kl", mass=None, n_iter=1000, f=None, g=None):
    """Potentials after `n_iter` plain iterations: rows, then columns (and the total, of a partial plan)."""
    f = np.zeros(len(a)) if f is None else f
    g = np.zeros(len(b)) if g is None else g
    if mass is not None:
        return _partial_sinkhorn(cost, a, b, eps, mass, n_iter)
    rho_rows, rho_columns = _sides(rho, relaxation)
    for _ in range(n_iter):
        f = relaxed(softmin_rows(g, cost, b, eps), eps, rho_rows, relaxation)
        g = relaxed(softmin_columns(f, cost, a, eps), eps, rho_columns, relaxation)
    return f, g


def _partial_sinkhorn(cost, a, b, eps, mass, n_iter):
    """P1 <= a, P^T 1 <= b, sum P = mass: f, g <= 0 and a multiplier of the total, shared out between the two."""
    f, g, shift = np.zeros(len(a)), np.zeros(len(b)), 0.0
    for _ in range(n_iter):
        shift = eps * (math.log(mass) - logsumexp(log_plan(f, g, cost, a, b, eps).ravel(), axis=0))
        f = np.minimum(0, softmin_rows(g + shift, cost, b, eps))
        g = np.minimum(0, softmin_columns(f + shift, cost, a, eps))
    shift = eps * (math.log(mass) - logsumexp(log_plan(f, g, cost, a, b, eps).ravel(), axis=0))
    return f + shift / 2, g + shift / 2


# ---- what a plan is worth --------------------------------------------------------------------------------------------


def kl(p, q):
    """sum p log(p / q) - p + q."""
    p, q = np.ravel(p), np.ravel(q)
    if np.any((q == 0) & (p > 0)):
        return math.inf
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / q[some])) - np.sum(p) + np.sum(q))


def transport_cost(plan, cost):
    some = plan > 0
    return float(np.sum(plan[some] * cost[some]))


def marginal_error(plan, a, b):
    """L1 error of both marginals, relative to the total mass."""
    return float((np.abs(plan.sum(axis=1) - a).sum() + np.abs(plan.sum(axis=0) - b).sum()) / np.sum(a))


def objective(plan, cost, a, b, eps, *, rho=BALANCED, relaxation="kl", mass=None, slack=1e-9):
    """The primal value of any plan. Capacities (range, partial) hold to `slack` of the total; a balanced side is free."""
    value = transport_cost(plan, cost) + eps * kl(plan, np.outer(a, b))
    rows, columns = plan.sum(axis=1), plan.sum(axis=0)
    slack = slack * np.sum(a)
    if mass is not None:
        fits = np.all(rows <= a + slack) and np.all(columns <= b + slack) and abs(plan.sum() - mass) <= slack
        return value if fits else math.inf
    if relaxation == "range":
        low, high = rho
        fits = all(
            np.all(side >= low * masses - slack) and np.all(side <= high * masses + slack)
            for side, masses in ((rows, a), (columns, b))
        )
        return value if fits else math.inf
    for side, masses, strength in ((rows, a, rho[0]), (columns, b, rho[1])):
        if strength not in (0, math.inf):
            value += strength * (kl(side, masses) if relaxation == "kl" else np.abs(side - masses).sum())
    return float(value)


def _dual_of_side(f, masses, rho, relaxation):
    """-sum_i masses_i phi*(-f_i), phi* the conjugate of the side's penalty."""
    f, masses = f[masses > 0], masses[masses > 0]
    if relaxation == "range":
        low, high = rho
        return float(np.sum(masses * np.minimum(low * f, high * f)))
    if rho == math.inf:
        return float(np.sum(masses * f))
    if relaxation == "tv":
        return float(np.sum(masses * np.minimum(f, rho))) if np.all(f >= -rho) else -math.inf
    if rho == 0:
        return 0.0 if np.all(f == 0) else -math.inf
    return float(np.sum(masses * rho * -np.expm1(-f / rho)))


def dual_objective(f, g, cost, a, b, eps, *, rho=BALANCED, relaxation="kl", mass=None):
    """The dual value of any potentials: at most the objective of any plan, and equal to it at the optimum."""
    common = -eps * (plan(f, g, cost, a, b, eps).sum() - a.sum() * b.sum())
    if mass is not None:
        # potentials (f - top) and (g - top) are <= 0, the tops together are the multiplier of the total
        spare = (np.max(f[a > 0]) * (a.sum() - mass), np.max(g[b > 0]) * (b.sum() - mass))
        return float(np.sum(a * f) + np.sum(b * g) - sum(spare) + common)
    rho_rows, rho_columns = _sides(rho, relaxation)
    return _dual_of_side(f, a, rho_rows, relaxation) + _dual_of_side(g, b, rho_columns, relaxation) + common


# ---- problems and answers --------------------------------------------------------------------------------------------


def masses(n, rng, total=1.0):
    a = rng.uniform(0.2, 1.0, n)
    return a * (total / a.sum())


def problem(n, m, rng, total_a=1.0, total_b=1.0):
    """Random costs and masses."""
    return rng.uniform(0, 1, (n, m)), masses(n, rng, total_a), masses(m, rng, total_b)


def true_error(result, cost, a, b):
    """The marginal error of a balanced answer, from its potentials in float64."""
    return marginal_error(plan(result.f, result.g, np.asarray(cost, np.float64), a, b, result.eps), a, b)


# ---- 50 digits -------------------------------------------------------------------------------------------------------


def sinkhorn_mpmath(cost, a, b, eps, digits=50):
    """Balanced f, g, P as lists of mpf: Newton steps from the plain loop's answer, until they change half the digits."""
    (n, m), start = np.shape(cost), sinkhorn(cost, a, b, eps, n_iter=3000)
    with mpmath.workdps(digits):
        c = [[mpmath.mpf(float(v)) for v in row] for row in cost]
        a, b, eps = [mpmath.mpf(float(v)) for v in a], [mpmath.mpf(float(v)) for v in b], mpmath.mpf(float(eps))
        b = [v * mpmath.fsum(a) / mpmath.fsum(b) for v in b]
        f, g = ([mpmath.mpf(float(v)) for v in potential] for potential in start)
        step = mpmath.inf
        while step > mpmath.mpf(10) ** (-digits // 2) * eps:
            p = [[a[i] * b[j] * mpmath.exp((f[i] + g[j] - c[i][j]) / eps) for j in range(m)] for i in range(n)]
            rows, columns = [mpmath.fsum(row) for row in p], [mpmath.fsum(column) for column in zip(*p, strict=True)]
            jacobian = mpmath.diag(rows + columns)
            for i in range(n):
                for j in range(m):
                    jacobian[i, n + j] = jacobian[n + j, i] = p[i][j]
            missing = [x - y for x, y in zip(a + b, rows + columns, strict=True)]
            # the last potential stays: the two sides are known up to one constant
            change = [*(eps * mpmath.lu_solve(jacobian[:-1, :-1], mpmath.matrix(missing[:-1]))), mpmath.mpf(0)]
            f, g = ([x + d for x, d in zip(*pair, strict=True)] for pair in ((f, change[:n]), (g, change[n:])))
            step = max(abs(d) for d in change)
        return f, g, [[a[i] * b[j] * mpmath.exp((f[i] + g[j] - c[i][j]) / eps) for j in range(m)] for i in range(n)]


# ---- closed forms ----------------------------------------------------------------------------------------------------


def _two_by_two_entry(a, b, k):
    """The root p of p (1 - a - b + p) = k (a - p) (b - p) that lies in [0, min(a, b)]."""
    linear = 1 - (1 - k) * (a + b)
    root = mpmath.sqrt(linear**2 + 4 * (1 - k) * k * a * b)
    return 2 * k * a * b / (linear + root) if linear > 0 else (root - linear) / (2 * (1 - k))


def two_by_two(cost, a, b, eps):
    """The balanced plan of a 2 x 2 problem of total mass 1."""
    with mpmath.workdps(50):
        c = [[mpmath.mpf(float(v)) for v in row] for row in cost]
        a, b = ([mpmath.mpf(float(v)) for v in masses] for masses in (a, b))
        k = mpmath.exp(-(c[0][0] + c[1][1] - c[0][1] - c[1][0]) / mpmath.mpf(float(eps)))
        entries = [[_two_by_two_entry(a[i], b[j], k if i == j else 1 / k) for j in range(2)] for i in range(2)]
        return np.array([[float(p) for p in row] for row in entries])


def one_by_one_unbalanced(cost, a, b, eps, rho):
    """The mass that one point sends to another, under KL penalties (finite ones)."""
    log_mass = -cost + eps * math.log(a * b) + rho[0] * math.log(a) + rho[1] * math.log(b)
    return math.exp(log_mass / (eps + rho[0] + rho[1]))


def circulant(cost, eps):
    """The balanced plan between uniform masses of a cost whose rows, and columns, hold the same numbers."""
    kernel = np.exp(-(cost - cost.min()) / eps)
    return kernel / kernel.sum()


def separable(alpha, beta, a, b, eps, rho):
    """The plan of the cost alpha_i + beta_j under KL penalties, not both infinite: a product."""
    damping = [1.0 if r == math.inf else r / (r + eps) for r in rho]
    rows, columns = a * np.exp(-alpha / (rho[0] + eps)), b * np.exp(-beta / (rho[1] + eps))
    power = 1 / (1 - damping[0] * damping[1])
    row_mass = (rows.sum() * columns.sum() ** -damping[0]) ** power
    column_mass = (columns.sum() * rows.sum() ** -damping[1]) ** power
    return np.outer(row_mass * rows / rows.sum(), column_mass * columns / columns.sum())


def one_sided(cost, a, b, eps):
    """The plan whose rows must have masses `a` and whose columns are free."""
    with np.errstate(divide="ignore"):
        scores = np.log(b)[None, :] - cost / eps
    return a[:, None] * np.exp(scores - logsumexp(scores, axis=1)[:, None])


def _root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values)) @ vectors.T


def gaussian(mean_a, cov_a, mean_b, cov_b, eps):
    """Value, cross-covariance and matrix of the map of balanced transport between Gaussians, cost |x - y|^2."""
    s2, identity = eps / 2, np.eye(len(mean_a))
    root = _root(cov_a)
    d = _root(4 * root @ cov_b @ root + s2**2 * identity)
    value = np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a + cov_b - d)
    value += len(mean_a) * s2 * (1 - math.log(2 * s2)) + s2 * np.linalg.slogdet(d + s2 * identity)[1]
    cross = root @ d @ np.linalg.inv(root) / 2 - s2 / 2 * identity
    return float(value), cross, cross.T @ np.linalg.inv(cov_a)


def unbalanced_gaussian(mean_a, cov_a, mean_b, cov_b, eps, rho, mass_a=1.0, mass_b=1.0):
    """Mass, mean (of x and y together) and covariance of the plan with KL penalties of strength rho on both sides."""
    d, identity, s2 = len(mean_a), np.eye(len(mean_a)), eps / 2
    tau, lam = rho / (eps + rho), s2 + rho / 2
    x_inv = np.linalg.inv(cov_a + cov_b + lam * identity)
    tilde_a, tilde_b = (rho / 2 * (identity - lam * np.linalg.inv(c + lam * identity)) for c in (cov_a, cov_b))
    root = _root(tilde_a)
    cross = root @ _root(root @ tilde_b @ root / tau + s2**2 / 4 * identity) @ np.linalg.inv(root) - s2 / 2 * identity
    shift = np.asarray(mean_b) - np.asarray(mean_a)
    log_det = [np.linalg.slogdet(m)[1] for m in (cross, tilde_a @ tilde_b, cov_a @ cov_b)]
    log_mass = d * s2 / (rho + s2) * math.log(s2) / 2
    log_mass += (math.log(mass_a * mass_b) + log_det[0] + tau * log_det[1] / 2 - log_det[2] / 2) / (tau + 1)
    log_mass -= shift @ x_inv @ shift / (2 * (tau + 1))
    log_mass -= np.linalg.slogdet(cross - 2 / rho * tilde_a @ tilde_b)[1] / 2
    mean = np.concatenate([mean_a + cov_a @ x_inv @ shift, mean_b - cov_b @ x_inv @ shift])
    spread_x, spread_y = identity + cross / lam, identity + cross.T / lam
    corner = cross + spread_x @ cov_a @ x_inv @ cov_b
    cov = np.block(
        [
            [spread_x @ (cov_a - cov_a @ x_inv @ cov_a), corner],
            [corner.T, spread_y @ (cov_b - cov_b @ x_inv @ cov_b)],
        ]
    )
    return math.exp(log_mass), mean, cov


def debiased_barycenter_variance(variances, weights, eps):
    """S with sum_k w_k D(v_k, S) = D(S, S), D(A, B) = sqrt(4 A B + (eps/2)^2): 1-D Gaussians of one mean, by bisection."""
    variances, weights, s4 = np.asarray(variances), np.asarray(weights), (eps / 2) ** 2
    low, high = variances.min(), variances.max()
    for _ in range(200):
        middle = (low + high) / 2
        if np.sum(weights * np.sqrt(4 * variances * middle + s4)) > math.sqrt(4 * middle**2 + s4):
            low = middle
        else:
            high = middle
    return (low + high) / 2


# ---- several marginals -----------------------------------------------------------------------------------------------


def multi_marginal(costs, edges, marginals, eps, n_iter=1000):
    """The joint law, as a dense tensor, of a path or tree of variables: proportional to
    exp((sum_t f_t - sum_edges C) / eps), with the marginals that are given (None leaves a variable free)."""
    sizes = {}
    for (s, t), cost in zip(edges, costs, strict=True):
        sizes[s], sizes[t] = np.shape(cost)
    dims = len(sizes)
    log_law = np.zeros([sizes[t] for t in range(dims)])
    for (s, t), cost in zip(edges, costs, strict=True):
        pair = np.asarray(cost) if s < t else np.asarray(cost).T
        log_law = log_law - np.expand_dims(pair, [d for d in range(dims) if d not in (s, t)]) / eps
    for _ in range(n_iter):
        for t, marginal in enumerate(marginals):
            if marginal is not None:
                others = [d for d in range(dims) if d != t]
                now = logsumexp(np.moveaxis(log_law, t, 0).reshape(sizes[t], -1), axis=1)
                log_law = log_law + np.expand_dims(np.log(marginal) - now, others)
    return np.exp(log_law)
