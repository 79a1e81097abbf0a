"""Nearest-neighbour estimators from their definitions: all pairs, loops over samples, digamma from SciPy.

Samples are float64 arrays (n, d). Distances are folded over the coordinates in their order, which is how the package
says that it computes them, so that distances and counts can be compared exactly.
"""

import math

import numpy as np
from scipy.special import digamma, gammaln


def distances(x, y, metric):
    """All distances (n, m)."""
    total = np.zeros((len(x), len(y)))
    for c in range(x.shape[1]):
        apart = np.abs(x[:, None, c] - y[None, :, c])
        if metric == "chebyshev":
            total = np.maximum(total, apart)
        else:
            total = total + (apart * apart if metric == "euclidean" else apart)
    return np.sqrt(total) if metric == "euclidean" else total


def others(x, metric="chebyshev", window=0):
    """Distances among the samples; inf between those that are at most `window` places apart."""
    total = distances(x, x, metric)
    place = np.arange(len(x))
    total[np.abs(place[:, None] - place) <= window] = np.inf
    return total


def within(far, radii, strict):
    return (far < radii[:, None]).sum(axis=1) if strict else (far <= radii[:, None]).sum(axis=1)


def kth(far, k):
    return np.sort(far, axis=1)[:, k - 1]


def log_ball(d, metric):
    if metric == "euclidean":
        return d / 2 * math.log(math.pi) - gammaln(1 + d / 2)
    return d * math.log(2) - (gammaln(1 + d) if metric == "manhattan" else 0)


# ---- entropies -------------------------------------------------------------------------------------------------------


def entropy(x, k, metric="chebyshev"):
    """Kozachenko and Leonenko with psi(n), in radii."""
    n, d = x.shape
    return digamma(n) - digamma(k) + log_ball(d, metric) + d * np.log(kth(others(x, metric), k)).mean()


def power_entropy(x, k, q, metric="chebyshev"):
    """int p^q after Leonenko, Pronzato and Savani."""
    n, d = x.shape
    volumes = np.exp(log_ball(d, metric)) * kth(others(x, metric), k) ** d
    c = math.exp((gammaln(k) - gammaln(k + 1 - q)) / (1 - q))
    return (((n - 1) * c * volumes) ** (1 - q)).mean()


def truncated_entropy(x, k, low, high):
    n, _ = x.shape
    radius = kth(others(x), k)[:, None]
    sides = np.minimum(x + radius, high) - np.maximum(x - radius, low)
    return digamma(n) - digamma(k) + np.log(sides).sum(axis=1).mean()


def spacing_entropy(x, m, method):
    """Loops over the samples of one variable."""
    s, n = sorted(x), len(x)
    at = lambda i: s[min(max(i, 0), n - 1)]  # noqa: E731
    if method == "vasicek":
        return sum(math.log(n / (2 * m) * (at(i + m) - at(i - m))) for i in range(n)) / n
    if method == "van_es":
        spacings = sum(math.log((n + 1) / m * (s[i + m] - s[i])) for i in range(n - m)) / (n - m)
        return spacings + sum(1 / j for j in range(m, n + 1)) + math.log(m) - math.log(n + 1)
    if method == "ebrahimi":
        total = 0.0
        for i in range(n):
            c = 1 + i / m if i + 1 <= m else 1 + (n - 1 - i) / m if i + 1 >= n - m + 1 else 2
            total += math.log(n / (c * m) * (at(i + m) - at(i - m)))
        return total / n
    total = 0.0
    for i in range(n):  # Correa
        window = [at(i + j) for j in range(-m, m + 1)]
        mean = sum(window) / len(window)
        above = sum((v - mean) * j for v, j in zip(window, range(-m, m + 1), strict=True))
        total -= math.log(above / (n * sum((v - mean) ** 2 for v in window)))
    return total / n


# ---- information -----------------------------------------------------------------------------------------------------


def ksg1(variables, k):
    n, radius = len(variables[0]), kth(others(np.hstack(variables)), k)
    counts = [within(others(v), radius, True) for v in variables]
    return digamma(k) + (len(counts) - 1) * digamma(n) - sum(digamma(c + 1) for c in counts).mean()


def ksg2(variables, k):
    n, joint = len(variables[0]), others(np.hstack(variables))
    total = 0.0
    for i in range(n):
        near = np.argsort(joint[i], kind="stable")[:k]
        for v in variables:
            radius = np.abs(v[near] - v[i]).max()
            total += digamma((np.delete(np.abs(v - v[i]).max(axis=1), i) <= radius).sum())
    m = len(variables)
    return digamma(k) - (m - 1) / k + (m - 1) * digamma(n) - total / n


def mixed(variables, k):
    """Gao, Kannan, Oh and Viswanath 2017 as in their code: counts below the radius, or at an atom, with oneself."""
    n, joint = len(variables[0]), others(np.hstack(variables))
    total = 0.0
    for i in range(n):
        radius = np.sort(joint[i])[k - 1]
        near = (joint[i] == 0).sum() + 1 if radius == 0 else k
        counts = [((others(v)[i] == 0).sum() if radius == 0 else (others(v)[i] < radius).sum()) + 1 for v in variables]
        total += digamma(near) + (len(variables) - 1) * math.log(n) - sum(digamma(c) for c in counts)
    return total / n


def mixed_paper(variables, k):
    """Gao, Kannan, Oh and Viswanath 2017 as in the paper."""
    n, joint = len(variables[0]), others(np.hstack(variables))
    total = 0.0
    for i in range(n):
        radius = np.sort(joint[i])[k - 1]
        near = (joint[i] == 0).sum() if radius == 0 else k
        counts = [(others(v)[i] <= radius).sum() for v in variables]
        total += digamma(near) + (len(variables) - 1) * math.log(n) - sum(math.log(c + 1) for c in counts)
    return total / n


def tie_aware(x, y, z, k):
    """Mesner and Shalizi 2021, not clipped; z may be None."""
    parts = [x, y] if z is None else [x, y, z]
    joint = others(np.hstack(parts))
    radius = kth(joint, k)
    near = digamma(within(joint, radius, False))
    if z is None:
        xz, yz, own = others(x), others(y), np.full(len(x), digamma(len(x)))
    else:
        xz, yz = others(np.hstack([x, z])), others(np.hstack([y, z]))
        own = digamma(within(others(z), radius, False))
    return (near - digamma(within(xz, radius, False)) - digamma(within(yz, radius, False)) + own).mean()


def conditional(x, y, z, k, window=0):
    """Frenzel and Pompe."""
    radius = kth(others(np.hstack([x, y, z]), window=window), k)
    xz, yz, own = (
        digamma(within(others(np.hstack(parts), window=window), radius, True) + 1) for parts in ([x, z], [y, z], [z])
    )
    return (digamma(k) - xz - yz + own).mean()


def rahimzamani(x, y, z, k):
    joint = others(np.hstack([x, y, z]))
    radius = kth(joint, k)
    near = np.where(radius == 0, (joint == 0).sum(axis=1), k)
    xz, yz, own = (np.log(within(others(np.hstack(p)), radius, False) + 1) for p in ([x, z], [y, z], [z]))
    return (digamma(near) - xz - yz + own).mean()


def transfer(source, target, k, source_lags, target_lags, delay, window, condition=None):
    """Rows built moment by moment."""
    rows = []
    for t in range(len(target)):
        past = [t - delay - i for i in range(source_lags)], [t - 1 - i for i in range(target_lags)]
        if min(past[0] + past[1]) >= 0:
            z = np.concatenate([target[i] for i in past[1]] + ([] if condition is None else [condition[t - 1]]))
            rows.append((np.concatenate([source[i] for i in past[0]]), target[t], z))
    x, y, z = (np.array(column) for column in zip(*rows, strict=True))
    return conditional(x, y, z, k, window)


def ross(x, labels, k):
    sizes = {label: (labels == label).sum() for label in set(labels.tolist())}
    kept = np.array([sizes[label] > 1 for label in labels.tolist()])
    x, labels = x[kept], labels[kept]
    far = others(x)
    total = 0.0
    for i, label in enumerate(labels.tolist()):
        own = np.sort(far[i][(labels == label) & (np.arange(len(x)) != i)])
        order = min(k, len(own))
        total += digamma(order) - digamma(sizes[label]) - digamma((far[i] <= own[order - 1]).sum())
    return digamma(len(x)) + total / len(x)


# ---- divergences and dimensions --------------------------------------------------------------------------------------


def divergence(x, y, k, metric="euclidean"):
    n, d = x.shape
    ratio = kth(distances(x, y, metric), k) / kth(others(x, metric), k)
    return d * np.log(ratio).mean() + math.log(len(y) / (n - 1))


def power_integral(x, y, k, a, metric="euclidean"):
    """int p^a q^(1 - a) after Poczos and Schneider."""
    n, d = x.shape
    ratio = (n - 1) * kth(others(x, metric), k) ** d / (len(y) * kth(distances(x, y, metric), k) ** d)
    factor = math.exp(2 * gammaln(k) - gammaln(k - a + 1) - gammaln(k + a - 1))
    return factor * (ratio ** (1 - a)).mean()


def local_dimensions(x, k, method):
    values = []
    for row in np.sort(others(x, "euclidean"), axis=1)[:, :k]:
        if method == "mle":
            values.append((k - 1) / sum(math.log(row[-1] / r) for r in row[:-1]))
        else:
            mean = sum(row[:-1]) / (k - 1)
            values.append(mean / (row[-1] - mean))
    return np.array(values)
