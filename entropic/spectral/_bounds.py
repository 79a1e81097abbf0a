"""What a part of a spectrum and two traces say of its entropy: bounds on both sides.

For a symmetric matrix K with eigenvalues in [-1, 1] let q = |lambda|^t, S = sum q and T = -sum q log q. The diffusion
entropy is log S + T / S. Some eigenvalues are known; of the others, mu, there are the number, bounds of sum |mu| and of
sum mu^2. Everything below is in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tail:
    """What is known of the eigenvalues that are not: their number, and the ranges of two sums of their magnitudes."""

    count: int
    first: tuple[float, float]
    second: tuple[float, float]

    @property
    def largest(self) -> float:
        """No magnitude is above the root of the sum of squares, nor above 1."""
        return min(1.0, math.sqrt(self.second[1]))


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


def _power_sum(tail: Tail, t: float) -> tuple[float, float]:
    """Bounds of sum |mu|^t for t >= 1: f(t) = log of it is convex, and |mu|^(t - 2) is at most that of the largest."""
    (low1, high1), (low2, high2), n, c = tail.first, tail.second, tail.count, tail.largest
    if high2 <= 0:
        return 0.0, 0.0
    if t == 1:
        return low1, high1
    if t == 2:
        return low2, high2
    if t < 2:
        low = max(low2 * c ** (t - 2), low1**t * n ** (1 - t))
        return low, max(low, min(high1 ** (2 - t) * high2 ** (t - 1), n ** (1 - t / 2) * high2 ** (t / 2)))
    low = n * (low2 / n) ** (t / 2)
    if high1 > 0:
        low = max(low, low2 * min(low2 / high1, 1.0) ** (t - 2))
    return low, max(low, c ** (t - 2) * high2)


def _log_slopes(tail: Tail, t: float) -> tuple[float, float]:
    """Bounds of (-sum q log q) / sum q over the tail, a mean of -t log |mu| with the weights q.

    It is -t f'(t), and f' grows from the slope of f between 1 and 2 to log of the largest magnitude.
    """
    low, high = -t * math.log(tail.largest), math.inf
    if t == 1 and tail.second[1] > 0:
        low = max(low, _log(tail.first[0] / tail.second[1]))
    if t >= 2 and tail.second[0] > 0:
        high = t * _log(tail.first[1] / tail.second[0])
    return low, max(low, high)


def _value(s: float, tau: float, top_s: float, top_t: float) -> float:
    total = top_s + s
    return math.log(total) + (top_t + tau) / total


def tail_interval(top: np.ndarray, tail: Tail, t: float) -> tuple[float, float]:
    """Range of log S + T / S over all tails; `top` holds the magnitudes of the known eigenvalues."""
    known = top[top > 0]
    powers = known**t
    top_s, top_t = float(powers.sum()), float(-(powers * (t * np.log(known))).sum())
    low_s, high_s = _power_sum(tail, t)
    if top_s + low_s <= 0:  # for a large t, with no eigenvalue near 1 among the known ones
        return 0.0, math.inf
    if tail.count == 0 or high_s <= 0:
        return (_value(0.0, 0.0, top_s, top_t),) * 2
    least, most = _log_slopes(tail, t)

    # With tau = least s the value falls up to one s and then grows.
    turn = min(max(top_t - (least + 1) * top_s, low_s), high_s)
    lower = min(_value(s, least * s, top_s, top_t) for s in (low_s, turn, high_s))

    # With tau = s log(count / s), for equal magnitudes, it grows up to one s and then falls.
    turn = min(max(tail.count * math.exp(-min(top_t / top_s, 700.0)), low_s), high_s)
    upper = max(_value(s, s * math.log(tail.count / s) if s > 0 else 0.0, top_s, top_t) for s in (low_s, turn, high_s))
    if math.isfinite(most):
        # With tau = most s it falls and then grows, so that its ends are its largest.
        upper = min(upper, max(_value(s, most * s, top_s, top_t) for s in (low_s, high_s)))
    return lower, max(lower, upper)


def entropy_of(u: np.ndarray) -> float:
    """log sum u - sum u log u / sum u."""
    u = u[u > 0]
    total = u.sum()
    return float(np.log(total) - (u * np.log(u)).sum() / total)


def _filled(u: np.ndarray, slack: float, n: int) -> float:
    """The largest entropy of n numbers whose total is larger than that of `u` by `slack` and that are not below `u`.

    The least ones are raised to one level, as water fills the lowest places.
    """
    ascending = np.concatenate([np.zeros(1), np.sort(u)])
    counts = n - len(u) + np.arange(len(ascending))  # of those that are below the next one
    levels = (slack + np.cumsum(ascending)) / np.maximum(counts, 1e-300)
    first = int(np.argmax(np.append(ascending[1:] >= levels[:-1], True)))
    level, count, rest = levels[first], counts[first], ascending[first + 1 :]
    rest = rest[rest > 0]
    filled = count * level * np.log(level) if count and level > 0 else 0.0
    total = count * level + rest.sum()
    return float(np.log(total) - (filled + (rest * np.log(rest)).sum()) / total)


def compressed_interval(ritz: np.ndarray, square_trace: float, n: int, t: float) -> tuple[float, float]:
    """Range of the entropy for t >= 2 from Ritz values of any quality, the first of which is the known eigenvalue 1.

    Sorted by magnitude no Ritz value is above its eigenvalue (Cauchy), and what their squares lack of the trace of K^2
    is a slack that the eigenvalues share, each up to 1: q, which is convex in the square, grows by at most a chord of
    it. The entropy is least where the second one has all of it: it is quasiconcave, so that its minimum is at a corner.
    """
    squares = np.sort(np.abs(ritz))[::-1] ** 2
    slack = max(square_trace - float(squares.sum()), 0.0) + 1e-13
    powers = squares ** (t / 2)
    if len(powers) < 2:
        powers, squares = np.append(powers, 0.0), np.append(squares, 0.0)
    second = min(squares[1], 1.0)
    if second + slack <= 1:
        most = (second + slack) ** (t / 2) - powers[1]
    else:
        most = slack * (t / 2 if second > 1 - 1e-9 else (1 - second ** (t / 2)) / (1 - second))
    raised = powers.copy()
    raised[1] += most
    least = entropy_of(raised) if t == 2 else min(entropy_of(powers), entropy_of(raised))
    return least, max(least, _filled(powers, most, n))


def widened(interval: tuple[float, float], top: np.ndarray, t: float, distance: float, n: int) -> tuple[float, float]:
    """For a matrix whose eigenvalues differ, in all, by at most `distance` from those that the interval is for.

    S moves by at most t times that. -x^t log x^t has a slope of at most L on [0, 1]; for t = 1 it has none, and its sum
    moves by at most distance (1 + log(n / distance)) (Fannes).
    """
    if distance == 0:
        return interval
    if t == 1:
        change = distance * (1 + math.log(max(n / distance, 1.0)))
    else:
        change = distance * max(t, t * t / (t - 1) * math.exp(-1 - (t - 1) / t))
    total = max(float((top**t).sum()), 1e-300)
    drop = t * distance
    if drop >= total / 2:
        return -math.inf, math.inf
    mean = max(abs(interval[0]), abs(interval[1])) + abs(math.log(total))
    reach = (drop * (1 + mean) + change) / (total - drop)
    return interval[0] - reach, interval[1] + reach
