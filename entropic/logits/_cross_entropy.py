"""Cross-entropy of logits, in torch's terms, and the rows that it shares with the linear form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import _core
from .._backend import Array, to_numpy
from .._validate import check_choice, check_integer, check_number, normalize_axis
from .._vjp import Pullback, cotangent_of, rule_for
from ._functions import LINEAR, LOG_SOFTMAX, cast, float_dtype, host_real, scalar_or_array
from ._rows import Rows, cap_slope, capped, check_softcap, check_targets
from ._token_rules import place_at

REDUCTIONS = ("mean", "sum", "none")


class LossStates(NamedTuple):
    """Of rows: the largest logit, sum exp(logit - largest) over the others, and the target's logit (nan if soft)."""

    top: np.ndarray
    rest: np.ndarray
    target: np.ndarray

    def reference(self) -> np.ndarray:
        """The largest logit, from which gaps are taken; of a row without mass any number, to which all are infinite."""
        return np.where(np.isneginf(self.top), 0.0, self.top)


@dataclass(frozen=True)
class Loss:
    """The checked options of a cross-entropy over `width` categories, and its targets: one number or one row each."""

    targets: np.ndarray  # (rows,) int64, or (rows, width)
    weight: np.ndarray | None  # (width,), float64
    ignore_index: int
    smoothing: float
    softcap: float | None
    reduction: str
    width: int

    @property
    def soft(self) -> bool:
        return self.targets.ndim == 2

    @property
    def counted(self) -> np.ndarray:
        """Which rows count."""
        if self.soft:
            return np.ones(len(self.targets), bool)
        return np.asarray(self.targets != self.ignore_index)

    @property
    def total(self) -> float:
        """By which a sum is divided for the mean: rows, or the weights of their targets."""
        counted = self.counted
        if self.soft or self.weight is None:
            return float(np.count_nonzero(counted))
        return float(self.weight[self.targets[counted]].sum())

    def shares(self, dtype: np.dtype, rows: slice) -> np.ndarray:
        """Weighted target distributions of rows with soft targets, smoothed."""
        q: np.ndarray = self.targets[rows].astype(dtype, copy=False)
        if self.smoothing:
            q = q * (1 - self.smoothing) + self.smoothing / self.width
        if self.weight is not None:
            q = q * self.weight.astype(dtype)
        return q

    def hard(self, rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Targets of rows (0 where a row does not count), their weights in the loss, and the rows that count."""
        targets = self.targets[rows]
        counted = targets != self.ignore_index
        targets = np.where(counted, targets, 0)
        weights = np.where(counted, 1.0 if self.weight is None else self.weight[targets], 0.0)
        return targets, weights * (1 - self.smoothing), counted

    def states(self, z: np.ndarray, rows: slice) -> LossStates:
        """Of a chunk of capped logits."""
        top, rest, _ = _core.reduce_states(z, 2)
        if self.soft or not z.size:
            return LossStates(top, rest, np.full(len(z), np.nan))
        return LossStates(top, rest, z[np.arange(len(z)), self.hard(rows)[0]].astype(np.float64))

    def values(self, z: np.ndarray, states: LossStates, rows: slice) -> np.ndarray:
        """The losses of a chunk, float64; of terms that have one sign."""
        log_mass = np.log1p(states.rest)
        if self.soft:
            soft = np.zeros(len(z))
            if self.smoothing < 1:
                gaps, shares = _core.weigh_gaps(z, states.reference(), self.targets[rows], self.weight)
                soft = (1 - self.smoothing) * (shares * log_mass + gaps)
            return soft + self._smooth(z, states, log_mass) if self.smoothing else soft
        _, weights, counted = self.hard(rows)
        with np.errstate(invalid="ignore"):
            # not max - target + log_mass of rows without mass, which have -inf in both
            surprise = np.where(np.isneginf(states.target), np.inf, states.top - states.target + log_mass)
            loss = np.where(weights == 0, 0.0, weights * surprise)
        if self.smoothing:
            loss = loss + np.where(counted, self._smooth(z, states, log_mass), 0.0)
        return loss

    def _smooth(self, z: np.ndarray, states: LossStates, log_mass: np.ndarray) -> np.ndarray:
        """The part of the loss that the equal shares of the smoothing make."""
        gaps, shares = _core.weigh_gaps(z, states.reference(), None, self.weight)
        return np.asarray(self._share * (shares * log_mass + gaps))

    @property
    def _share(self) -> float:
        """Of each category in the smoothing."""
        return self.smoothing / max(self.width, 1)

    def _smoothing_weights(self) -> np.ndarray:
        return np.full(self.width, self._share) if self.weight is None else self.weight * self._share

    def gradient(
        self, z: np.ndarray, states: LossStates, rows: slice, g: np.ndarray, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Gradient to a chunk of capped logits of losses with cotangents `g`; `out` may be the chunk itself."""
        if self.soft:
            q = self.shares(z.dtype, rows)
            grad = _softmax_times(z, g * q.sum(axis=1, dtype=np.float64), out)
            grad -= q * g[:, None].astype(z.dtype)
            return _without_empty(grad, states)
        targets, weights, counted = self.hard(rows)
        each = self._smoothing_weights()
        g = np.where(counted, g, 0.0)
        # of a row of which nothing counts, not even nan comes through
        total = np.where(g == 0, 0.0, g * (weights + each.sum()))
        grad = _softmax_times(z, total, out)
        if self.smoothing and self.weight is None:
            grad -= (g * self._share).astype(z.dtype)[:, None]
        elif self.smoothing:
            grad -= g.astype(z.dtype)[:, None] * each.astype(z.dtype)
        # p - 1 = -(r - expm1(target - max)) / (1 + r) where p is nearly 1
        share = 1 / (1 + states.rest)
        gap = states.target - states.top
        own = each[targets] if each.size else np.zeros(len(z))
        at = g * share * ((each.sum() - own) * np.exp(gap) - (weights + own) * (states.rest - np.expm1(gap)))
        place_at(grad, np.where(counted, targets, -1), at.astype(z.dtype), add=False)
        grad[~counted | (weights + each.sum() == 0)] = 0
        return _without_empty(grad, states)

    def reduced(self, losses: np.ndarray) -> float:
        """The sum or the mean; of nothing the mean is nan."""
        total = losses.sum()
        if self.reduction == "sum":
            return float(total)
        return float(total / self.total) if self.total else np.nan

    def row_cotangents(self, g: np.ndarray) -> np.ndarray:
        """One a row from that of the value; zero where nothing counts."""
        if self.reduction == "mean":
            return np.full(len(self.targets), float(g) / self.total if self.total else 0.0)
        return np.broadcast_to(g.reshape(-1), (len(self.targets),))


def _softmax_times(z: np.ndarray, factor: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    grad = np.empty(z.shape, z.dtype) if out is None else out
    if grad.size:
        _core.map_rows(z, 2, LINEAR, np.concatenate([factor, np.zeros(len(z))]), grad)
    return grad


def _times_log_softmax(z: np.ndarray, factor: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """factor weight log softmax, where a factor of 0 makes nothing of an infinite logarithm."""
    out = np.empty(z.shape, z.dtype)
    if out.size:
        _core.map_rows(z, 2, LOG_SOFTMAX, None, out)
    with np.errstate(invalid="ignore"):
        out *= factor.astype(z.dtype)[:, None]
        if weight is not None:
            out *= weight.astype(z.dtype)
            out[:, weight == 0] = 0
    out[factor == 0] = 0
    return out


def _without_empty(grad: np.ndarray, states: LossStates) -> np.ndarray:
    grad[np.isneginf(states.top) & (states.rest == 0)] = 0
    return grad


def check_loss(
    func: str, batch: tuple[int, ...], width: int, targets: Any, weight: Any, ignore_index: Any, smoothing: Any,
    softcap: Any, reduction: Any, axis: int
) -> Loss:  # fmt: skip
    """Targets are whole numbers of shape `batch`, or real numbers with the categories along `axis`."""
    check_choice(func, "reduction", reduction, REDUCTIONS)
    share = check_number(func, "label_smoothing", smoothing)
    if not 0 <= share <= 1:
        raise ValueError(f"{func}: `label_smoothing` must be in [0, 1], got {smoothing!r}")
    weights = None
    if weight is not None:
        weights = to_numpy(func, "weight", weight)
        if weights.dtype.kind == "c" or weights.shape != (width,):
            raise ValueError(f"{func}: `weight` must be real of shape ({width},), one a category, got {weights.shape}")
        weights = weights.astype(np.float64)
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError(f"{func}: `weight` must be finite and not negative")
    ignored = check_integer(func, "ignore_index", ignore_index, np.iinfo(np.int64).min)
    given = to_numpy(func, "targets", targets)
    numbers: np.ndarray
    full = (*batch[:axis], width, *batch[axis:])
    if given.dtype.kind not in "biu" and (given.size or given.shape == full):
        if given.dtype.kind == "c":
            raise TypeError(f"{func}: `targets` must be real, got dtype {given.dtype}")
        if given.shape != full:
            raise ValueError(f"{func}: soft `targets` must have the shape of the logits {full}, got {given.shape}")
        numbers = np.moveaxis(given, axis, -1).reshape(-1, width)
        # two passes without an array of their own, in which nan comes through
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < np.inf):
            raise ValueError(f"{func}: soft `targets` must be finite and not negative")
    else:
        numbers = check_targets(func, targets, batch).reshape(-1)
        wrong = ((numbers < 0) | (numbers >= width)) & (numbers != ignored)
        if wrong.any():
            raise ValueError(
                f"{func}: `targets` must be in [0, {width}) or ignore_index={ignored}, got {numbers[wrong][0]}"
            )
    return Loss(numbers, weights, ignored, share, check_softcap(func, softcap), reduction, width)


def _prepared(
    func: str, logits: Array, targets: Array, *, weight: Any = None, ignore_index: Any = -100,
    label_smoothing: Any = 0.0, softcap: Any = None, reduction: Any = "mean", axis: int = -1
) -> tuple[Any, np.ndarray, Rows, Loss]:  # fmt: skip
    backend, x = host_real(func, "logits", logits, targets=targets, weight=weight)
    place = normalize_axis(func, axis, x.ndim)
    rows = Rows(x, place)
    loss = check_loss(
        func, rows.batch, rows.width, targets, weight, ignore_index, label_smoothing, softcap, reduction, place
    )
    return backend, x, rows, loss


def _chunk(rows: Rows, chunk: slice, loss: Loss) -> tuple[np.ndarray, np.ndarray]:
    """A chunk of logits, and the same capped."""
    raw = rows.chunk(chunk.start, chunk.stop).astype(rows.dtype, copy=False)
    return raw, capped(raw, loss.softcap, rows.dtype)


def _losses(rows: Rows, loss: Loss) -> np.ndarray:
    losses = np.empty(rows.count)
    if loss.softcap is None and not loss.soft and not loss.smoothing and rows.width:
        top, rest, _ = _core.reduce_states(rows.x, 1 << rows.axis).reshape(3, -1)
        targets = loss.hard(slice(None))[0].reshape(*rows.batch, 1)
        target = np.take_along_axis(rows.moved, targets, axis=-1).astype(np.float64)
        return loss.values(rows.x, LossStates(top, rest, target.reshape(-1)), slice(None))
    for chunk in rows.chunks():
        z = _chunk(rows, chunk, loss)[1]
        losses[chunk] = loss.values(z, loss.states(z, chunk), chunk)
    return losses


def cross_entropy(
    logits: Array,
    targets: Array,
    *,
    weight: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
    axis: int = -1,
) -> Any:
    """Cross-entropy between targets and ``softmax(logits)``, -log p of the target, as accurate near 0 as far from it.

    Parameters
    ----------
    logits : array_like
        Real, any shape with at least one dimension.
    targets : array_like
        Whole numbers, one category a row (the shape of `logits` without `axis`); or real numbers of the shape of
        `logits`, a distribution a row (not normalised here).
    weight : array_like, optional
        One finite non-negative weight a category: of a row's loss that of its target, and of each term of the
        smoothing its own. By default 1.
    ignore_index : int, optional
        Rows with this target have loss and gradient 0 and do not count in a mean.
    label_smoothing : float, optional
        The share a of the target that is spread over all categories: (1 - a) onehot + a / n.
    softcap : float, optional
        Take ``softcap * tanh(logits / softcap)`` as the logits. None, the default, does not.
    reduction : {"mean", "sum", "none"}, optional
        The mean divides by the number of rows that count, or by the weights of their targets; over no row it is nan,
        with a gradient of 0.
    axis : int, optional
        The axis of the categories, the last by default.

    Returns
    -------
    float or ndarray
        A number in the float type of the logits (float32 for half types), or with ``reduction="none"`` one a row. inf
        where a target has probability 0.

    Raises
    ------
    ValueError
        A target that is neither in range nor `ignore_index`, shapes that do not fit, options out of their range.
    TypeError, DeviceError
        As :func:`logit_stats`.

    Notes
    -----
    Of one row log1p(r) + (max - x_target), r the sum of exp(x - max) over all but one maximal entry: two terms that
    are not negative. The semantics are those of torch.nn.functional.cross_entropy, the sums are float64. Time: one
    read; a cap, smoothing and soft targets write down 8 MiB of rows at a time. Gradients (:func:`entropic.vjp`): of
    `logits`, and of soft `targets`. Backends: CPU.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> float(entropic.cross_entropy(np.log([[0.5, 0.5], [0.25, 0.75]]), [0, 0]).round(6))
    1.039721
    >>> peaked = np.array([[40.0, 0.0]], dtype=np.float32)
    >>> float(entropic.cross_entropy(peaked, [0]))  # doctest: +ELLIPSIS
    4.24835...e-18
    """
    func = "cross_entropy"
    backend, _, rows, loss = _prepared(
        func, logits, targets, weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing,
        softcap=softcap, reduction=reduction, axis=axis,
    )  # fmt: skip
    return backend.wrap(deliver(_losses(rows, loss), loss, rows.batch, rows.dtype))


def deliver(losses: np.ndarray, loss: Loss, batch: tuple[int, ...], dtype: np.dtype) -> Any:
    """The losses reduced, in the type of the logits."""
    value = losses.reshape(batch) if loss.reduction == "none" else np.asarray(loss.reduced(losses))
    return scalar_or_array(cast(value, dtype))


@rule_for(cross_entropy)
def _cross_entropy_rule(
    logits: Array, targets: Array, *, wrt: tuple[str, ...] = (), **options: Any
) -> tuple[Any, Pullback]:
    func = "cross_entropy"
    value = cross_entropy(logits, targets, **options)
    backend, x, rows, loss = _prepared(f"vjp of {func}", logits, targets, **options)

    def pullback(g: Any) -> tuple[Any, ...]:
        each = loss.row_cotangents(cotangent_of(func, g, rows.batch if loss.reduction == "none" else ()))
        grad = np.empty((rows.count, rows.width), float_dtype(x))
        of_targets = float_dtype(to_numpy(func, "targets", targets))
        by_target = np.empty((rows.count, rows.width), of_targets) if loss.soft else None
        for chunk in rows.chunks():
            raw, z = _chunk(rows, chunk, loss)
            states = loss.states(z, chunk)
            in_place = grad.dtype == z.dtype
            part = loss.gradient(z, states, chunk, each[chunk], out=grad[chunk] if in_place else None)
            if loss.softcap is not None:
                part *= cap_slope(raw, loss.softcap, rows.dtype)
            if not in_place:
                grad[chunk] = cast(part, grad.dtype)
            if by_target is not None:
                by_target[chunk] = _times_log_softmax(z, (loss.smoothing - 1) * each[chunk], loss.weight)

        def shaped(flat: np.ndarray) -> Any:
            return backend.wrap(np.moveaxis(flat.reshape(*rows.batch, rows.width), -1, rows.axis))

        if by_target is None:
            return shaped(grad), None
        return shaped(grad), shaped(by_target)

    return value, pullback
