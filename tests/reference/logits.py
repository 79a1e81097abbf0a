"""The log-sum family from its definitions, in 100 digits (log(1 + 1e-40) needs them), and as plain NumPy where a definition is a slice of another."""

import mpmath
import numpy as np

DIGITS = 100


def _exact(x):
    return [mpmath.mpf(float(v)) for v in np.asarray(x).ravel()]


def _sum_exp(x, b=None):
    weights = _exact(np.broadcast_to(b, np.shape(x))) if b is not None else [mpmath.mpf(1)] * np.size(x)
    return mpmath.fsum(w * mpmath.exp(v) for v, w in zip(_exact(x), weights, strict=True))


def logsumexp(x, b=None):
    """log|sum b exp(x)| and its sign, of finite values and -inf, as mpf."""
    with mpmath.workdps(DIGITS):
        total = _sum_exp(x, b)
        if total == 0:
            return mpmath.mpf("-inf"), 0
        return mpmath.log(abs(total)), int(mpmath.sign(total))


def logmeanexp(x):
    with mpmath.workdps(DIGITS):
        return mpmath.log(_sum_exp(x) / np.size(x))


def log_softmax(x):
    with mpmath.workdps(DIGITS):
        values = _exact(x)
        top = max(values)  # taken out exactly, so that values of 1e308 need no more digits
        log_total = mpmath.log(mpmath.fsum(mpmath.exp(v - top) for v in values))
        return [v - top - log_total for v in values]


def softmax(x):
    with mpmath.workdps(DIGITS):
        return [mpmath.exp(v) for v in log_softmax(x)]


def entropy(x):
    with mpmath.workdps(DIGITS):
        return -mpmath.fsum(mpmath.exp(v) * v for v in log_softmax(x) if mpmath.isfinite(v))


def logcumsumexp(x):
    with mpmath.workdps(DIGITS):
        total, out = mpmath.mpf(0), []
        for v in _exact(x):
            total += mpmath.exp(v)
            out.append(mpmath.log(total) if total else mpmath.mpf("-inf"))
        return out


def complex_logsumexp(x, b=None):
    """log(sum b exp(x)) of complex values, as mpc."""
    with mpmath.workdps(DIGITS):
        values = [mpmath.mpc(complex(v)) for v in np.asarray(x).ravel()]
        weights = [mpmath.mpc(complex(v)) for v in np.broadcast_to(1 if b is None else b, np.shape(x)).ravel()]
        return mpmath.log(mpmath.fsum(w * mpmath.exp(v) for v, w in zip(values, weights, strict=True)))


def kept_set(row, temperature=1.0, mask=None, top_k=None, top_p=1.0, drop_fraction=0.0):
    """Indices that the filters of logit_stats leave, by sorting and counting."""
    row = [float(v) for v in row]
    order = [j for j in range(len(row)) if mask is None or mask[j]]
    order.sort(key=lambda j: (-row[j], j))
    order = order[:top_k]
    if top_p < 1 and order:
        mass = [mpmath.exp((mpmath.mpf(row[j]) - row[order[0]]) / temperature) for j in order]
        total, count, so_far = mpmath.fsum(mass), 0, mpmath.mpf(0)
        while so_far < top_p * total:
            so_far += mass[count]
            count += 1
        order = order[:count]
    return order[: len(order) - int(np.floor(np.round(drop_fraction * len(order), 9)))]


def token_stats(row, temperature=1.0, kept=None, values=None, target=None):
    """Fields of LogitStats of the categories `kept`, as mpf, of rows with mass."""
    kept = list(range(len(row))) if kept is None else kept
    with mpmath.workdps(DIGITS):
        z = {j: mpmath.mpf(float(row[j])) / mpmath.mpf(float(temperature)) for j in kept}
        top = max(z.values())
        log_total = mpmath.log(mpmath.fsum(mpmath.exp(v - top) for v in z.values()))
        log_p = {j: v - top - log_total for j, v in z.items()}
        p = {j: mpmath.exp(v) for j, v in log_p.items()}
        mean = mpmath.fsum(p[j] * v for j, v in log_p.items() if p[j])
        out = {
            "logsumexp": top + log_total,
            "entropy": -mean,
            "max_prob": max(p.values()),
            "collision": mpmath.fsum(v**2 for v in p.values()),
            "varentropy": mpmath.fsum(p[j] * (v - mean) ** 2 for j, v in log_p.items() if p[j]),
        }
        if values is not None:
            out["expectation"] = mpmath.fsum(v * mpmath.mpf(float(values[j])) for j, v in p.items())
        if target is not None:
            out["logprob"] = log_p.get(target, mpmath.mpf("-inf"))
        return out


def divergence(x, y, kind, order=None):
    """Of softmax(x) and softmax(y), as mpf; a logit of -inf has no mass."""
    with mpmath.workdps(DIGITS):
        p, q = softmax(x), softmax(y)

        def log_ratio(u, v):
            return mpmath.log(u / v) if v else mpmath.inf

        def kl(a, b):
            return mpmath.fsum(u * log_ratio(u, v) for u, v in zip(a, b, strict=True) if u)

        middle = [(u + v) / 2 for u, v in zip(p, q, strict=True)]
        by_kind = {
            "kl": lambda: kl(p, q),
            "reverse_kl": lambda: kl(q, p),
            "js": lambda: (kl(p, middle) + kl(q, middle)) / 2,
            "jeffreys": lambda: kl(p, q) + kl(q, p),
        }
        if kind in by_kind:
            return by_kind[kind]()
        if order == np.inf:
            return max(log_ratio(u, v) for u, v in zip(p, q, strict=True) if u)
        a = mpmath.mpf(order)

        def power(u, exponent):
            return u**exponent if u or exponent > 0 else mpmath.inf

        overlap = mpmath.fsum(power(u, a) * power(v, 1 - a) for u, v in zip(p, q, strict=True) if u or v)
        log_overlap = mpmath.log(overlap) if overlap else -mpmath.inf
        return log_overlap / (a - 1) if kind == "renyi" else (overlap - 1) / (a * (a - 1))


def row_entropy(x, kind, order=None):
    """Generalised entropies of softmax(x), and of the labels sigmoid(x), as mpf."""
    with mpmath.workdps(DIGITS):
        if kind == "binary":
            shares = [(1 / (1 + mpmath.exp(-v)), 1 / (1 + mpmath.exp(v))) for v in _exact(x)]
            return -mpmath.fsum(v * mpmath.log(v) for both in shares for v in both)
        p = softmax(x)
        if kind == "min":
            return -mpmath.log(max(p))
        if kind == "quadratic":
            return 1 - mpmath.fsum(v**2 for v in p)
        a = mpmath.mpf(order)
        if a == 1:
            return entropy(x)
        total = mpmath.fsum(v**a for v in p)
        return mpmath.log(total) / (1 - a) if kind == "renyi" else (1 - total) / (a - 1)


def ulps(got, exact):
    """Distance of a floating number from the exact value, in units in the last place of its type at that value."""
    got = np.asarray(got)
    if mpmath.isinf(exact):
        return 0.0 if float(got) == float(exact) else float("inf")
    nearest = got.dtype.type(float(exact))
    spacing = mpmath.mpf(float(np.spacing(np.abs(nearest))))
    return float(abs(mpmath.mpf(float(got)) - exact) / spacing)


def relative_error(got, exact):
    if exact == 0:
        return abs(float(got))
    return float(abs((mpmath.mpf(float(got)) - exact) / exact))


def finite_difference(func, x, g, step=1e-5):
    """Gradient of <g, func(x)> by central differences."""
    grad = np.zeros(x.shape)
    for i in np.ndindex(*x.shape):
        moved = x.copy()
        moved[i] += step
        above = np.sum(g * func(moved))
        moved[i] -= 2 * step
        grad[i] = (above - np.sum(g * func(moved))) / (2 * step)
    return grad
