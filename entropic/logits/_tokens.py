"""Statistics of rows of logits, from one read of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .. import _core
from .._backend import NUMPY, Array, Backend, to_numpy
from .._validate import check_base, check_choice, check_integer, normalize_axis
from ._functions import cast, host_real, scalar_or_array
from ._rows import (
    Filters,
    Rows,
    check_filters,
    check_in_vocabulary,
    check_targets,
    check_temperature,
)

# The fields of a state in csrc/include/entropic/config.hpp, and the values that are made of one.
MAX, R, T, Q, S2, W, V, ARGMAX, INVERSE, TARGET = range(10)
VALUES = ("logsumexp", "entropy", "logprob", "max_prob", "collision", "varentropy", "expectation", "max_logit")


@dataclass(frozen=True)
class Units:
    """How values are told: the natural logarithm of the base, and whether a row without mass is nan."""

    log_base: float = 1.0
    masked_nan: bool = False

    def scale(self, name: str) -> float:
        """By which a value in nats is divided."""
        return {"entropy": self.log_base, "logprob": self.log_base, "varentropy": self.log_base**2}.get(name, 1.0)


NATS = Units()


class LogitStats:
    """Statistics of softmax(logits / temperature), one a row; made by :func:`entropic.logit_stats`.

    Each is computed when it is asked for, from ten float64 numbers a row, and comes in the caller's library: float32
    where the logits had at most 32 bits, else float64. Parts of one vocabulary merge.

    Attributes
    ----------
    logsumexp : array
        log sum exp(logits / temperature), in nats.
    entropy : array
        -sum p log p, in the units of `base`.
    logprob : array
        log p of the targets; nan where there is no target (or, in a part of a vocabulary, where another has it).
    max_logit : array
        Largest logit, not divided by the temperature.
    argmax : array of int64
        Its index in the whole vocabulary, the first of equals; -1 where nothing is kept.
    max_prob : array
        Largest probability.
    collision : array
        sum p^2.
    varentropy : array
        Variance of log p under p, in the squared units of `base`.
    expectation : array
        sum p value, of the values given as `expect`.
    shape : tuple of int
        Shape of each of them.
    """

    def __init__(
        self, states: np.ndarray, dtype: np.dtype, units: Units, backend: Backend, *,
        has_targets: bool, has_values: bool, merges: bool, values: np.ndarray | None = None
    ) -> None:  # fmt: skip
        self._states, self._dtype, self._units, self._backend = states, dtype, units, backend
        self._has_targets, self._has_values, self._merges = has_targets, has_values, merges
        if values is not None:
            self._values = values

    @property
    def shape(self) -> tuple[int, ...]:
        return self._states.shape[1:]

    @cached_property
    def _values(self) -> np.ndarray:
        """In the order of VALUES."""
        if self._units == NATS:
            return cast(_core.finish_tokens(self._states, self._dtype == np.float32), self._dtype)
        values = _core.finish_tokens(self._states, False)
        if self._units.masked_nan:
            empty = np.isneginf(self._states[MAX]) & (self._states[R] == 0)
            values[1 : VALUES.index("max_logit"), empty] = np.nan
        for value, name in zip(values, VALUES, strict=True):
            value /= self._units.scale(name)
        return cast(values, self._dtype)

    def scale_of(self, name: str) -> float:
        return self._units.scale(name)

    def _wrap(self, values: np.ndarray) -> Any:
        return self._backend.wrap(scalar_or_array(values))

    def _value(self, name: str) -> Any:
        return self._wrap(self._values[VALUES.index(name)].copy())  # the caller's own, to change as they like

    @property
    def logsumexp(self) -> Any:
        return self._value("logsumexp")

    @property
    def entropy(self) -> Any:
        return self._value("entropy")

    @property
    def logprob(self) -> Any:
        if not self._has_targets:
            raise ValueError("LogitStats.logprob: no `targets` were given")
        return self._value("logprob")

    @property
    def max_prob(self) -> Any:
        return self._value("max_prob")

    @property
    def collision(self) -> Any:
        return self._value("collision")

    @property
    def varentropy(self) -> Any:
        return self._value("varentropy")

    @property
    def expectation(self) -> Any:
        if not self._has_values:
            raise ValueError("LogitStats.expectation: no values were given as `expect`")
        return self._value("expectation")

    @property
    def max_logit(self) -> Any:
        return self._value("max_logit")

    @property
    def argmax(self) -> Any:
        return self._wrap(self._states[ARGMAX].astype(np.int64))

    @classmethod
    def merge(cls, *parts: LogitStats) -> LogitStats:
        """The statistics of a vocabulary from those of its parts, each made with its `offset`.

        Parameters
        ----------
        *parts : LogitStats
            Of the same rows, at the same temperatures, made with the same options but `offset`, in any order.

        Returns
        -------
        LogitStats
            As of the whole, to about 1e-15 relative of what each part holds.

        Raises
        ------
        TypeError
            Something that is not a LogitStats.
        ValueError
            No part, other shapes or temperatures, or parts that were filtered by `top_k`, `top_p` or `drop_fraction`:
            what a filter keeps of the whole cannot be known from its parts.
        """
        if not parts:
            raise ValueError("LogitStats.merge: pass at least one part")
        for part in parts:
            if not isinstance(part, LogitStats):
                raise TypeError(f"LogitStats.merge: parts must be LogitStats, got {type(part).__qualname__}")
            if not part._merges:
                raise ValueError("LogitStats.merge: a part was filtered by `top_k`, `top_p` or `drop_fraction`")
            if part.shape != parts[0].shape:
                raise ValueError(f"LogitStats.merge: shapes differ, {parts[0].shape} and {part.shape}")
            if not np.array_equal(part._states[INVERSE], parts[0]._states[INVERSE]):
                raise ValueError("LogitStats.merge: temperatures differ")
            if part._units != parts[0]._units:
                raise ValueError("LogitStats.merge: parts were made with another `base` or `masked_rows`")
        whole = parts[0]._states.copy()
        for part in parts[1:]:
            _core.merge_tokens(whole, part._states)
        return cls(
            whole, np.result_type(*(part._dtype for part in parts)), parts[0]._units, parts[0]._backend,
            has_targets=any(part._has_targets for part in parts),
            has_values=all(part._has_values for part in parts), merges=True,
        )  # fmt: skip

    def __repr__(self) -> str:
        extra = (", targets" if self._has_targets else "") + (", expectation" if self._has_values else "")
        return f"LogitStats(shape={self.shape}, dtype={self._dtype}{extra})"


@dataclass(frozen=True)
class Options:
    """The checked options of one call, for rows of `width` categories numbered by `batch`."""

    inverse: np.ndarray  # 1 / temperature, shape (temperatures, *batch)
    leading: bool  # a leading axis for the temperatures
    filters: Filters
    units: Units
    values: np.ndarray | None
    targets: np.ndarray | None
    offset: int | None

    def stats(self, states: np.ndarray, dtype: np.dtype, backend: Backend) -> LogitStats:
        """From states of shape (10, temperatures, *batch)."""
        return LogitStats(
            states if self.leading else states[:, 0], dtype, self.units, backend,
            has_targets=self.targets is not None, has_values=self.values is not None, merges=not self.filters.selects,
        )  # fmt: skip

    def local_targets(self, width: int) -> np.ndarray | None:
        """Places of the targets here; -1 for those of other parts."""
        if self.targets is None:
            return None
        if self.offset is None:  # all of them are here: that was checked
            return self.targets
        local = self.targets - self.offset
        return np.where((local >= 0) & (local < width), local, -1)

    def chunk_states(self, z: np.ndarray, rows: slice, which: int) -> tuple[np.ndarray, np.ndarray]:
        """A chunk as its filters leave it, and its states (10, rows), at one of the temperatures."""
        inverse = np.ascontiguousarray(self.inverse[which].reshape(-1)[rows])
        z = self.filters.apply(z, rows, inverse) if self.filters else z
        targets = self.local_targets(z.shape[1])
        if targets is not None:
            targets = np.ascontiguousarray(targets.reshape(-1)[rows])
        states = _core.token_states(z, 1, inverse, targets, self.values)
        return z, self.placed(states)

    def placed(self, states: np.ndarray) -> np.ndarray:
        """States with the place of the maximum in the whole vocabulary."""
        if self.offset:
            states[ARGMAX] += np.where(states[ARGMAX] < 0, 0, self.offset)
        return states


def normalized_options(
    func: str, x: np.ndarray, targets: Any, *, axis: int = -1, temperature: Any = 1.0, temperatures: Any = None,
    mask: Any = None, top_k: Any = None, top_p: Any = None, drop_fraction: Any = None, base: Any = None,
    expect: Any = None, offset: Any = None, masked_rows: Any = "zero"
) -> tuple[Rows, Options]:  # fmt: skip
    """The rows of an array of logits, and the options of a call checked against them."""
    place = normalize_axis(func, axis, x.ndim)
    rows = Rows(x, place)
    if offset is not None:
        offset = check_integer(func, "offset", offset, 0)
        if offset >= 1 << 53:
            raise ValueError(f"{func}: `offset` must be below 2**53, got {offset}")
    numbers = None
    if targets is not None:
        numbers = check_targets(func, targets, rows.batch)
        if offset is None:
            check_in_vocabulary(func, numbers, rows.width)
    values = None
    if expect is not None:
        values = to_numpy(func, "expect", expect)
        if values.dtype.kind == "c":
            raise TypeError(f"{func}: `expect` must be real, got dtype {values.dtype}")
        if values.shape != (rows.width,):
            raise ValueError(f"{func}: `expect` must have shape ({rows.width},), one a category, got {values.shape}")
        values = np.ascontiguousarray(values, dtype=rows.dtype)
        if not np.isfinite(values).all():
            raise ValueError(f"{func}: `expect` must be finite in {rows.dtype}")
    options = Options(
        1.0 / _all_temperatures(func, rows.batch, temperature, temperatures), temperatures is not None,
        check_filters(func, x.shape, place, mask, top_k, top_p, drop_fraction),
        Units(check_base(func, base), check_choice(func, "masked_rows", masked_rows, ("zero", "nan")) == 1),
        values, numbers, offset,
    )  # fmt: skip
    return rows, options


def _all_temperatures(func: str, batch: tuple[int, ...], temperature: Any, temperatures: Any) -> np.ndarray:
    if temperatures is None:
        return check_temperature(func, temperature, batch)[None]
    if not (isinstance(temperature, int | float) and temperature == 1):
        raise ValueError(f"{func}: pass either `temperature` or `temperatures`")
    several = to_numpy(func, "temperatures", temperatures)
    if several.ndim != 1 or not several.size:
        raise ValueError(f"{func}: `temperatures` must be a sequence of at least one number, got {temperatures!r}")
    return np.stack([check_temperature(func, t, batch) for t in several])


def logit_stats(
    logits: Array,
    targets: Array | None = None,
    *,
    axis: int = -1,
    temperature: float | Array = 1.0,
    temperatures: Sequence[float] | None = None,
    mask: Array | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    drop_fraction: float | None = None,
    base: float | None = None,
    expect: Array | None = None,
    offset: int | None = None,
    masked_rows: str = "zero",
) -> LogitStats:
    """Entropy, log-probability, maximum and moments of ``softmax(logits / temperature)``, in one pass.

    Parameters
    ----------
    logits : array_like
        Real, any shape with at least one dimension: float32, float64, float16, bfloat16; integers as float64.
    targets : array_like of int, optional
        One category a row (the shape of `logits` without `axis`), for `logprob`.
    axis : int, optional
        The axis of the categories, the last by default.
    temperature : float or array_like, optional
        Positive; a number, or one a row. 1 by default.
    temperatures : sequence of float, optional
        Several in place of one: every field gets them as a leading axis.
    mask : array_like of bool, optional
        True where an entry counts; broadcasts to `logits`. By default all do.
    top_k : int, optional
        Keep the `top_k` largest entries. Of equal ones the first stay.
    top_p : float, optional
        Keep the shortest run of largest entries that holds this share of the probability, the one that crosses it
        included.
    drop_fraction : float, optional
        Drop this share, rounded down, of the entries that are left, the smallest first, by count.
    base : float, optional
        Of the logarithm in `entropy`, `logprob` and `varentropy`; None for nats.
    expect : array_like, optional
        One finite value a category, for `expectation`.
    offset : int, optional
        Where these categories begin in a larger vocabulary, of which this is a part: `targets` are then numbers of
        the whole and may lie in another part. Parts merge by :meth:`LogitStats.merge`.
    masked_rows : {"zero", "nan"}, optional
        What a row is in which nothing is kept, or all is -inf: entropy, probabilities and moments 0 (the default) or
        nan. Its `logsumexp` is -inf in either case, its `argmax` -1, its `logprob` -inf or nan, its gradient 0.

    Returns
    -------
    LogitStats
        Fields `logsumexp`, `entropy`, `logprob`, `max_logit`, `argmax`, `max_prob`, `collision`, `varentropy` and
        `expectation`, each of the shape of `logits` without `axis`.

    Raises
    ------
    ValueError
        A target out of range, a temperature that is not positive and finite, shapes that do not fit, an option out of
        its range.
    TypeError
        Complex, masked, sparse or object arrays, targets that are not integers, a mask that is not boolean.
    DeviceError
        Device arrays: there is no GPU kernel.

    Notes
    -----
    Filters apply in the order mask, temperature, top_k, top_p, drop_fraction, each to the renormalised rest of the one
    before. With d = (max - x) / temperature and sums over all but one maximal entry, the state is r = sum exp(-d), t =
    sum exp(-d) d, and the like for d^2, for squares and for values; entropy = log1p(r) + t / (1 + r) and -logprob =
    d_target + log1p(r) add non-negative terms only, so that they keep float32's relative accuracy where a row is
    nearly certain. Second moments are taken about a centre near the mean. A row with nan is nan, its `argmax` the
    first nan; with +inf its `logsumexp` is inf and what depends on differences is nan.

    Time: one read of the logits whatever is asked, for each temperature; filters write down 8 MiB of rows at a time,
    `top_k` partitions them, `top_p` and `drop_fraction` sort. The gradient (:func:`entropic.vjp`, with a dict of
    cotangents by field) holds the kept set fixed. Backends: CPU.

    References
    ----------
    M. Milakov, N. Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867. A. Holtzman et al., "The
    Curious Case of Neural Text Degeneration", ICLR 2020 (`top_p`).

    Examples
    --------
    >>> import numpy as np, entropic
    >>> stats = entropic.logit_stats(np.log([[0.5, 0.25, 0.125, 0.125]]), targets=[1], base=2)
    >>> float(stats.entropy[0]), float(stats.logprob[0]), float(stats.varentropy[0].round(12))
    (1.75, -2.0, 0.6875)
    >>> entropic.logit_stats(np.zeros((1, 4)), top_p=0.5).max_prob
    array([0.5])
    """
    func = "logit_stats"
    if (
        type(logits) is np.ndarray and (targets is None or type(targets) is np.ndarray)
        and type(temperature) is float and temperature == 1.0 and temperatures is mask is top_k is top_p is None
        and drop_fraction is base is expect is offset is None and masked_rows == "zero"
    ):  # fmt: skip
        quick = _core.token_states_quick(logits, targets, axis)
        if quick is not None:
            states, values = quick
            return LogitStats(
                states, values.dtype, NATS, NUMPY, has_targets=targets is not None, has_values=False, merges=True,
                values=values,
            )  # fmt: skip
    backend, x = host_real(func, "logits", logits, targets=targets, mask=mask, expect=expect)
    rows, options = normalized_options(
        func, x, targets, axis=axis, temperature=temperature, temperatures=temperatures, mask=mask, top_k=top_k,
        top_p=top_p, drop_fraction=drop_fraction, base=base, expect=expect, offset=offset, masked_rows=masked_rows,
    )  # fmt: skip
    return options.stats(states_of(rows, options), rows.dtype, backend)


def states_of(rows: Rows, options: Options) -> np.ndarray:
    """States (10, temperatures, *batch) of all rows."""
    if not options.filters:
        return _plain_states(rows, options)
    states = np.empty((10, len(options.inverse), rows.count))
    for chunk in rows.chunks():
        z = rows.chunk(chunk.start, chunk.stop).astype(rows.dtype, copy=False)
        for which in range(len(options.inverse)):
            states[:, which, chunk] = options.chunk_states(z, chunk, which)[1]
    return states.reshape(10, len(options.inverse), *rows.batch)


def _plain_states(rows: Rows, options: Options) -> np.ndarray:
    count = len(options.inverse)
    if count == 1:
        targets = options.local_targets(rows.width)
        states = _core.token_states(rows.x, rows.axis, options.inverse[0, ...], targets, options.values)
        return options.placed(states)[:, None]
    # The temperatures are an axis without a stride next to the categories: a row is read while it is in the cache.
    several = np.broadcast_to(rows.moved[..., None, :], (*rows.batch, count, rows.width))
    inverse = np.ascontiguousarray(np.moveaxis(options.inverse, 0, -1))
    targets = options.local_targets(rows.width)
    if targets is not None:
        targets = np.ascontiguousarray(np.broadcast_to(targets[..., None], inverse.shape))
    states = options.placed(_core.token_states(several, several.ndim - 1, inverse, targets, options.values))
    return np.ascontiguousarray(np.moveaxis(states, -1, 1))
