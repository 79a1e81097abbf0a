"""The mergeable stream."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

from .. import _core
from .._backend import NUMPY, Array, Backend, backend_of, refuse_cuda
from .._validate import axes_mask, kept_shape, normalize_axes
from ._functions import (
    ENTROPY,
    LOGSUMEXP,
    check_ndim,
    nan_if_negative,
    scalar_or_array,
    signed_log,
    weighted_inputs,
)


class LogSumExp:
    """A log-sum-exp that takes its data in chunks and merges with others.

    Elementwise over the axes that are not summed: every chunk must have the same shape but for the summed axis. The
    state is float64, a few numbers for each element of the result, whatever the length of the stream; it can be
    pickled, sent, and merged elsewhere.

    Notes
    -----
    Any chunking agrees with the whole to about 1e-15 relative for float64 chunks, and a later chunk with a far larger
    maximum does no harm. Merging is commutative. With weights `b` the stream holds a signed sum, for which there is no
    entropy; terms of opposite sign in different chunks cancel to about 1e-15 of the largest term. One stream must
    not be updated by two threads at once: give each its own and merge them. Backends: CPU.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> s = entropic.LogSumExp()
    >>> for chunk in np.split(np.arange(12.0), 3):
    ...     s.update(chunk)
    >>> float(s.logsumexp) == float(entropic.logsumexp(np.arange(12.0)))
    True
    >>> s
    LogSumExp(shape=(), count=12)
    """

    def __init__(self) -> None:
        self._fields: np.ndarray | None = None  # (3, *shape): m, r, t, or m, hi, lo once weights were given
        self._weighted = False
        self._count = 0
        self._backend: Backend = NUMPY

    def update(self, chunk: Array, axis: int | tuple[int, ...] | None = -1, b: Array | None = None) -> None:
        """Add a chunk, summed over `axis` (the last by default, None for all), with optional weights.

        Raises
        ------
        ValueError
            The chunk's other axes do not have the shape of the stream.
        TypeError
            Complex data, or a chunk of another library than the first.
        """
        func = "LogSumExp.update"
        backend = backend_of(func, chunk=chunk, b=b)
        refuse_cuda(func, backend, "chunk")
        x, w, dtype = weighted_inputs(func, chunk, b)
        if dtype.kind == "c":
            raise TypeError(f"{func}: `chunk` and `b` must be real")
        check_ndim(func, x)
        axes = normalize_axes(func, axis, x.ndim)
        shape = kept_shape(x.shape, axes, False)
        if self._fields is not None:
            if shape != self.shape:
                raise ValueError(f"{func}: the stream has shape {self.shape}, this chunk gives {shape}")
            if backend.library != self._backend.library:
                raise TypeError(
                    f"{func}: the stream holds {self._backend.library} data but `chunk` is a {backend.library} array"
                )
        mask = axes_mask(axes)
        fields = _core.reduce_states(x, mask) if w is None else _core.reduce_signed(x, w, mask, False)[0]
        if self._fields is None:
            self._backend = backend
        self._absorb(fields, w is not None)
        self._count += math.prod(x.shape[d] for d in axes)

    def merge(self, other: LogSumExp) -> None:
        """Add all that another stream of the same shape has seen.

        Raises
        ------
        TypeError
            `other` is not a LogSumExp.
        ValueError
            The shapes differ.
        """
        if not isinstance(other, LogSumExp):
            raise TypeError(f"LogSumExp.merge: `other` must be a LogSumExp, got {type(other).__qualname__}")
        if other._fields is None:
            return
        if self._fields is None:
            self._backend = other._backend
        elif other.shape != self.shape:
            raise ValueError(f"LogSumExp.merge: this stream has shape {self.shape}, the other {other.shape}")
        self._absorb(other._fields.copy(), other._weighted)
        self._count += other._count

    def _absorb(self, fields: np.ndarray, weighted: bool) -> None:
        if self._fields is None:
            self._fields, self._weighted = fields, weighted
            return
        if weighted and not self._weighted:
            self._fields, self._weighted = _as_signed(self._fields), True
        elif self._weighted and not weighted:
            fields = _as_signed(fields)
        (_core.merge_signed if self._weighted else _core.merge_states)(self._fields, fields)

    def __copy__(self) -> LogSumExp:
        other = LogSumExp()
        other.merge(self)
        return other

    def _state(self, what: str) -> np.ndarray:
        if self._fields is None:
            raise ValueError(f"LogSumExp.{what}: the stream has no shape yet; give it a chunk first")
        return self._fields

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the results."""
        return self._state("shape").shape[1:]

    @property
    def count(self) -> int:
        """Number of terms that each element of the result has taken."""
        return self._count

    @property
    def max(self) -> Any:
        """Largest term so far, float64; with weights, among those whose weight is not 0."""
        fields = self._state("max")
        # nan is kept in the sum and not in the maximum
        return self._wrap(np.where(np.isnan(fields[1]), np.nan, fields[0]))

    @property
    def logsumexp(self) -> Any:
        """Log-sum-exp so far, float64; nan where weights made the sum negative (see `signed`)."""
        fields = self._state("logsumexp")
        if not self._weighted:
            return self._wrap(_core.finish_states(fields, LOGSUMEXP))
        with np.errstate(invalid="ignore"):
            return self._wrap(nan_if_negative(*signed_log(fields)))

    def signed(self) -> tuple[Any, Any]:
        """log|sum| and the sum's sign, as ``logsumexp(..., return_sign=True)``."""
        fields = self._state("signed")
        with np.errstate(invalid="ignore"):
            log_abs, sign = signed_log(fields if self._weighted else _as_signed(fields))
        return self._wrap(log_abs), self._wrap(sign)

    @property
    def entropy(self) -> Any:
        """Entropy in nats of the softmax of all terms so far, float64.

        Raises
        ------
        ValueError
            The stream has taken weights.
        """
        fields = self._state("entropy")
        if self._weighted:
            raise ValueError("LogSumExp.entropy: a stream that has taken weights `b` has no entropy")
        return self._wrap(_core.finish_states(fields, ENTROPY))

    def _wrap(self, result: np.ndarray) -> Any:
        if self._backend.library != "numpy":
            importlib.import_module(self._backend.library)  # an unpickled stream may come before its library
        return self._backend.wrap(scalar_or_array(np.asarray(result)))

    def __repr__(self) -> str:
        if self._fields is None:
            return "LogSumExp(empty)"
        return f"LogSumExp(shape={self.shape}, count={self.count}{', weighted' if self._weighted else ''})"


def _as_signed(fields: np.ndarray) -> np.ndarray:
    """States (m, r, t) as signed sums (m, hi, lo) with hi + lo = 1 + r exactly."""
    m, r, _ = fields
    hi = r + 1.0
    lo = np.where(np.isfinite(hi), (1.0 - (hi - (hi - 1.0))) + (r - (hi - 1.0)), 0.0)
    empty = np.isneginf(m)
    infinite = np.isposinf(m)
    hi = np.where(empty, r, np.where(infinite, np.where(np.isnan(r), r, np.inf), hi))
    return np.stack([m, hi, np.where(empty | infinite, 0.0, lo)])
