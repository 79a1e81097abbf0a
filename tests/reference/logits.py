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
