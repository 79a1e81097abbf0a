"""Statistics and cross-entropy of logits ``hidden @ weight.T + bias`` that are never held whole.

Some rows of hidden states at a time meet the whole vocabulary: one matrix product into a tile of logits, the row
kernels, and for gradients two more products with the tile, which by then holds the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .._backend import Array, Backend, backend_of, refuse_cuda, to_numpy
from .._validate import check_number
from .._vjp import Pullback, cotangent_of, rule_for
from ._cross_entropy import Loss, check_loss, deliver
from ._functions import cast, check_real, float_dtype
from ._rows import Rows, cap_slope, capped, check_softcap, compute_dtype
from ._token_rules import by_temperature, chunk_gradient, field_cotangents
from ._tokens import LogitStats, Options, normalized_options

_TILE_BYTES = 50 << 20  # of logits at once: long enough for products to run at full speed
_PART_BYTES = 4 << 20  # of the vocabulary where it is widened, and of a gradient before it is added


class Scores:
    """The logits of all pairs, tile by tile."""

    def __init__(
        self, func: str, hidden: Array, weight: Array, bias: Array | None, softcap: Any, **others: Any
    ) -> None:
        self.backend: Backend = backend_of(func, hidden=hidden, weight=weight, bias=bias, **others)
        refuse_cuda(func, self.backend, "hidden")
        self.given = [to_numpy(func, "hidden", hidden), to_numpy(func, "weight", weight)]
        x, w = self.given
        for name, array in (("hidden", x), ("weight", w)):
            check_real(func, name, array)
        if w.ndim != 2:
            raise ValueError(f"{func}: `weight` must have shape (categories, features), got {w.shape}")
        if x.ndim < 1 or x.shape[-1] != w.shape[1]:
            raise ValueError(f"{func}: `hidden` must have shape (..., {w.shape[1]}) as `weight` has, got {x.shape}")
        self.batch, self.width = x.shape[:-1], w.shape[0]
        self.dtype = np.result_type(compute_dtype(x), compute_dtype(w))
        self.x, self.w = x.reshape(math.prod(self.batch), x.shape[-1]), w
        self.bias = None
        if bias is not None:
            self.given.append(to_numpy(func, "bias", bias))
            check_real(func, "bias", self.given[2])
            if self.given[2].shape != (self.width,):
                raise ValueError(f"{func}: `bias` must have shape ({self.width},), got {self.given[2].shape}")
            self.bias = self.given[2].astype(self.dtype)
        self.softcap = check_softcap(func, softcap)

    def shape_of_logits(self) -> np.ndarray:
        """An array of the logits' shape and type, without their memory, for checks."""
        return np.broadcast_to(np.zeros((), self.dtype), (*self.batch, self.width))

    def parts(self) -> Iterator[slice]:
        """Runs of categories: all of them where the weights can be multiplied as they are."""
        whole = self.w.dtype == self.dtype
        step = self.width if whole else max(1, _PART_BYTES // max(1, self.w.shape[1] * self.dtype.itemsize))
        for first in range(0, self.width, max(step, 1)):
            yield slice(first, min(first + step, self.width))

    def tiles(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Rows, their logits before the cap, and their logits: one array without a cap, and the next tile's too."""
        count = len(self.x)
        # a cap needs the logits on either side of it
        budget = _TILE_BYTES // (1 if self.softcap is None else 2)
        step = max(1, min(count, budget // max(1, self.width * self.dtype.itemsize)))
        tile = np.empty((step, self.width), self.dtype)
        for first in range(0, count, step):
            rows = slice(first, min(first + step, count))
            raw = tile[: rows.stop - rows.start]
            x = self.x[rows].astype(self.dtype, copy=False)
            for part in self.parts():
                np.matmul(x, self.w[part].astype(self.dtype, copy=False).T, out=raw[:, part])
            if self.bias is not None:
                raw += self.bias
            yield rows, raw, capped(raw, self.softcap, self.dtype)


class Gradient:
    """What tiles of the logits' gradient add up to: two products a tile, in the type of the sums."""

    def __init__(self, scores: Scores, filter_eps: float = 0.0) -> None:
        self.scores, self.filter_eps = scores, filter_eps
        self.by_x = np.zeros(scores.x.shape, scores.dtype)
        self.by_w = np.zeros(scores.w.shape, scores.dtype)
        self.fresh = True  # nothing has been added to `by_w`
        self.by_bias = None if scores.bias is None else np.zeros(scores.width)

    def add(self, rows: slice, raw: np.ndarray, grad: np.ndarray) -> None:
        """A tile's gradient to the capped logits."""
        s = self.scores
        if s.softcap is not None:
            grad *= cap_slope(raw, s.softcap, s.dtype)
        if self.by_bias is not None:
            self.by_bias += grad.sum(axis=0, dtype=np.float64)
        x = s.x[rows].astype(s.dtype, copy=False)
        if self.filter_eps:
            columns = np.flatnonzero(np.abs(grad).max(axis=0) >= self.filter_eps)
            few = grad[:, columns]
            self.by_x[rows] += few @ s.w[columns].astype(s.dtype, copy=False)
            self.by_w[columns] += few.T @ x
            self.fresh = False
            return
        for part in s.parts():
            self.by_x[rows] += grad[:, part] @ s.w[part].astype(s.dtype, copy=False)
        step = max(1, _PART_BYTES // max(1, x.shape[1] * s.dtype.itemsize))
        for first in range(0, s.width, step):
            part_of_w = self.by_w[first : first + step]
            if self.fresh:
                np.matmul(grad[:, first : first + step].T, x, out=part_of_w)
            else:
                part_of_w += grad[:, first : first + step].T @ x
        self.fresh = False

    def times(self, g: float) -> tuple[Any, ...]:
        """The gradients of hidden states, weights and bias, times a number."""
        parts = [self.by_x.reshape(self.scores.given[0].shape), self.by_w]
        if self.by_bias is not None:
            parts.append(self.by_bias)
        scaled = [part if g == 1 else part * part.dtype.type(g) for part in parts]
        return tuple(
            self.scores.backend.wrap(cast(part, float_dtype(given)))
            for part, given in zip(scaled, self.scores.given, strict=True)
        )


def _pulled(grads: tuple[Any, ...], has_targets: bool, wrt: tuple[str, ...]) -> tuple[Any, ...]:
    """One a positional array, and that of the bias where it is wanted."""
    return (*grads[:2], *((None,) if has_targets else ()), *(grads[2:] if "bias" in wrt else ()))


# ---- statistics ------------------------------------------------------------------------------------------------------


def linear_logit_stats(
    hidden: Array,
    weight: Array,
    targets: Array | None = None,
    *,
    bias: Array | None = None,
    softcap: float | None = None,
    temperature: float | Array = 1.0,
    temperatures: Any = None,
    mask: Array | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    drop_fraction: float | None = None,
    base: float | None = None,
    expect: Array | None = None,
    offset: int | None = None,
    masked_rows: str = "zero",
) -> LogitStats:
    """Statistics of ``softmax(hidden @ weight.T + bias)``, as :func:`logit_stats`, without holding the logits.

    Parameters
    ----------
    hidden : array_like
        Shape (..., D): float32, float64, float16 or bfloat16.
    weight : array_like
        Shape (V, D), the rows of the vocabulary or of a part of it.
    targets : array_like of int, optional
        One category a row, of shape (...).
    bias : array_like, optional
        Shape (V,).
    softcap : float, optional
        Take ``softcap * tanh(logits / softcap)``, before the temperature and the mask.
    temperature, temperatures, mask, top_k, top_p, drop_fraction, base, expect, offset, masked_rows
        As in :func:`logit_stats`; `mask` broadcasts to (..., V). With `offset` the weights are a shard of a larger
        vocabulary, and shards merge by :meth:`LogitStats.merge`.

    Returns
    -------
    LogitStats
        Fields of shape (...), float32 where hidden states and weights have at most 32 bits.

    Raises
    ------
    ValueError, TypeError, DeviceError
        As :func:`logit_stats`, and for shapes of `hidden`, `weight` and `bias` that do not go together.

    Notes
    -----
    Tiles of at most 50 MiB of logits, by NumPy's matrix product in float32 or float64 (half types are widened some
    categories at a time and never rounded again), and the kernel of :func:`logit_stats` on each: 2 N V D operations,
    memory O(tile). A gradient (a dict of cotangents by field) computes the tiles again and takes two more products
    each: 6 N V D. Backends: CPU.

    References
    ----------
    E. Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", arXiv:2411.09009.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> rng = np.random.default_rng(0)
    >>> hidden, weight = rng.normal(size=(3, 8)), rng.normal(size=(100, 8))
    >>> whole = entropic.logit_stats(hidden @ weight.T)
    >>> bool(np.allclose(entropic.linear_logit_stats(hidden, weight).entropy, whole.entropy))
    True
    >>> halves = [entropic.linear_logit_stats(hidden, weight[i : i + 50], offset=i) for i in (0, 50)]
    >>> bool(np.allclose(entropic.LogitStats.merge(*halves).entropy, whole.entropy))
    True
    """
    func = "linear_logit_stats"
    scores, _, options = _stats_problem(
        func, hidden, weight, targets, bias=bias, softcap=softcap, temperature=temperature, temperatures=temperatures,
        mask=mask, top_k=top_k, top_p=top_p, drop_fraction=drop_fraction, base=base, expect=expect, offset=offset,
        masked_rows=masked_rows,
    )  # fmt: skip
    states = np.empty((10, len(options.inverse), len(scores.x)))
    for rows, _, z in scores.tiles():
        for which in range(len(options.inverse)):
            states[:, which, rows] = options.chunk_states(z, rows, which)[1]
    return options.stats(states.reshape(10, len(options.inverse), *scores.batch), scores.dtype, scores.backend)


def _stats_problem(
    func: str, hidden: Array, weight: Array, targets: Array | None, *, bias: Any = None, softcap: Any = None,
    **options: Any
) -> tuple[Scores, Rows, Options]:  # fmt: skip
    scores = Scores(
        func, hidden, weight, bias, softcap, targets=targets, mask=options.get("mask"), expect=options.get("expect")
    )
    rows, checked = normalized_options(func, scores.shape_of_logits(), targets, **options)
    return scores, rows, checked


@rule_for(linear_logit_stats, keyword_arrays=("bias",))
def _linear_logit_stats_rule(
    hidden: Array, weight: Array, targets: Array | None = None, *, wrt: tuple[str, ...] = (), **options: Any
) -> tuple[LogitStats, Pullback]:
    func = "linear_logit_stats"
    stats = linear_logit_stats(hidden, weight, targets, **options)
    scores, _, checked = _stats_problem(f"vjp of {func}", hidden, weight, targets, **options)

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        g = by_temperature(field_cotangents(func, cotangent, stats), checked)
        total = Gradient(scores)
        for rows, raw, z in scores.tiles():
            total.add(rows, raw, chunk_gradient(z, rows, checked, g))
        return _pulled(total.times(1.0), targets is not None, wrt)

    return stats, pullback


# ---- cross-entropy ---------------------------------------------------------------------------------------------------


def linear_cross_entropy(
    hidden: Array,
    weight: Array,
    targets: Array,
    *,
    bias: Array | None = None,
    class_weight: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
    filter_eps: float = 0.0,
) -> Any:
    """Cross-entropy of ``hidden @ weight.T + bias``, as :func:`cross_entropy`, without holding the logits.

    Parameters
    ----------
    hidden : array_like
        Shape (..., D): float32, float64, float16 or bfloat16.
    weight : array_like
        Shape (V, D).
    targets : array_like
        Shape (...), one category a row; or soft ones, (..., V), which have no gradient here.
    bias : array_like, optional
        Shape (V,).
    class_weight, ignore_index, label_smoothing, softcap, reduction
        As `weight` and the others in :func:`cross_entropy`.
    filter_eps : float, optional
        For the gradient: leave out of the two products the categories of which no entry in a tile of gradients is as
        large as this. 0, the default, leaves out none; anything else is an approximation.

    Returns
    -------
    float or ndarray
        As :func:`cross_entropy`.

    Raises
    ------
    ValueError, TypeError, DeviceError
        As :func:`cross_entropy`, and for shapes of `hidden`, `weight` and `bias` that do not go together.

    Notes
    -----
    Tiles as in :func:`linear_logit_stats`. Through :func:`entropic.vjp` the gradient of a mean or a sum is formed on
    the way, while a tile is there: 6 N V D operations in all, and beside the gradients 50 MiB of logits and their
    gradient. With ``reduction="none"`` the pullback computes the tiles again: 8 N V D. Sums over tiles are in float32
    or wider. Backends: CPU.

    References
    ----------
    E. Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", arXiv:2411.09009.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> rng = np.random.default_rng(0)
    >>> hidden, weight, targets = rng.normal(size=(5, 8)), rng.normal(size=(100, 8)), np.arange(5)
    >>> loss, pullback = entropic.vjp(entropic.linear_cross_entropy, hidden, weight, targets)
    >>> bool(np.isclose(loss, entropic.cross_entropy(hidden @ weight.T, targets)))
    True
    >>> [g.shape for g in pullback(1.0)[:2]]
    [(5, 8), (100, 8)]
    """
    func = "linear_cross_entropy"
    scores, loss, _ = _loss_problem(
        func, hidden, weight, targets, bias=bias, class_weight=class_weight, ignore_index=ignore_index,
        label_smoothing=label_smoothing, softcap=softcap, reduction=reduction, filter_eps=filter_eps,
    )  # fmt: skip
    losses = np.empty(len(scores.x))
    for rows, _, z in scores.tiles():
        losses[rows] = loss.values(z, loss.states(z, rows), rows)
    return scores.backend.wrap(deliver(losses, loss, scores.batch, scores.dtype))


def _loss_problem(
    func: str, hidden: Array, weight: Array, targets: Array, *, bias: Any = None, class_weight: Any = None,
    ignore_index: Any = -100, label_smoothing: Any = 0.0, softcap: Any = None, reduction: Any = "mean",
    filter_eps: Any = 0.0
) -> tuple[Scores, Loss, float]:  # fmt: skip
    scores = Scores(func, hidden, weight, bias, softcap, targets=targets, class_weight=class_weight)
    loss = check_loss(
        func, scores.batch, scores.width, targets, class_weight, ignore_index, label_smoothing, softcap, reduction,
        len(scores.batch),
    )  # fmt: skip
    least = check_number(func, "filter_eps", filter_eps)
    if not 0 <= least < np.inf:
        raise ValueError(f"{func}: `filter_eps` must be finite and not negative, got {filter_eps!r}")
    return scores, loss, least


def _accumulate(
    scores: Scores, loss: Loss, least: float, each: np.ndarray, see: Callable[[slice, np.ndarray], None] | None = None
) -> Gradient:
    """The gradient of losses with cotangents `each`; `see` gets the losses of every tile."""
    total = Gradient(scores, least)
    for rows, raw, z in scores.tiles():
        states = loss.states(z, rows)
        if see is not None:
            see(rows, loss.values(z, states, rows))
        # the logits' own memory takes the gradient: that before a cap is another array
        total.add(rows, raw, loss.gradient(z, states, rows, each[rows], out=z))
    return total


@rule_for(linear_cross_entropy, keyword_arrays=("bias",))
def _linear_cross_entropy_rule(
    hidden: Array, weight: Array, targets: Array, *, wrt: tuple[str, ...] = (), **options: Any
) -> tuple[Any, Pullback]:
    func = "linear_cross_entropy"
    scores, loss, least = _loss_problem(func, hidden, weight, targets, **options)
    losses = np.empty(len(scores.x))
    found: Gradient | None = None
    if loss.reduction == "none":
        for rows, _, z in scores.tiles():
            losses[rows] = loss.values(z, loss.states(z, rows), rows)
    else:
        found = _accumulate(scores, loss, least, loss.row_cotangents(np.ones(())), losses.__setitem__)
    value = scores.backend.wrap(deliver(losses, loss, scores.batch, scores.dtype))

    def pullback(g: Any) -> tuple[Any, ...]:
        if found is not None:
            return _pulled(found.times(float(cotangent_of(func, g, ()))), True, wrt)
        each = loss.row_cotangents(cotangent_of(func, g, scores.batch))
        return _pulled(_accumulate(scores, loss, least, each).times(1.0), True, wrt)

    return value, pullback
