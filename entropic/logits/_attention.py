"""Entropy of attention, block by block of heads and queries."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _core
from .._backend import Array, Backend, backend_of, refuse_cuda, to_numpy
from .._validate import check_base, check_flag, check_number
from .._vjp import Pullback, cotangent_of, rule_for, unbroadcast
from ._functions import ENTROPY, ENTROPY_VJP, cast, check_real, float_dtype, scalar_or_array
from ._rows import CHUNK_BYTES, LARGEST_SCALE, compute_dtype


@dataclass(frozen=True)
class _Attention:
    """Checked arrays, heads flattened: q (heads, queries, d) and k (heads, keys, d) times the scale."""

    backend: Backend
    given: tuple[np.ndarray, np.ndarray]
    batch: tuple[int, ...]
    q: np.ndarray
    k: np.ndarray
    scale: float
    causal: bool
    mask: np.ndarray | None  # (*batch, queries, keys)
    lengths: np.ndarray | None  # (heads,)
    dtype: np.dtype

    def blocks(self) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """Heads, queries, and their scores with the keys that any of them sees; -inf where one does not."""
        heads, queries, keys = len(self.q), self.q.shape[1], self.k.shape[1]
        budget = CHUNK_BYTES // max(1, keys * self.dtype.itemsize)
        rows = max(1, min(queries, budget))
        step = max(1, budget // max(1, queries)) if rows == queries else 1
        later = keys - queries  # the queries are the last of the sequence
        buffer = np.empty(min(step, heads) * rows * keys, self.dtype)  # new memory for every block would cost a fifth
        for head in range(0, heads, step):
            some = slice(head, min(head + step, heads))
            for first in range(0, queries, rows):
                last = min(first + rows, queries)
                seen = max(0, min(keys, last + later)) if self.causal else keys
                q = self.q[some, first:last].astype(self.dtype) * self.dtype.type(self.scale)
                shape = (some.stop - head, last - first, seen)
                z = buffer[: math.prod(shape)].reshape(shape)
                np.matmul(q, np.swapaxes(self.k[some, :seen].astype(self.dtype, copy=False), 1, 2), out=z)
                self._hide(z, some, first, last, seen)
                yield some, slice(first, last), z

    def _hide(self, z: np.ndarray, heads: slice, first: int, last: int, seen: int) -> None:
        if self.causal:
            # only the last keys are hidden from some of these queries
            start = max(0, first + self.k.shape[1] - self.q.shape[1])
            limit = np.arange(first, last)[:, None] + self.k.shape[1] - self.q.shape[1]
            np.copyto(z[:, :, start:], -np.inf, where=np.arange(start, seen) > limit)
        if self.lengths is not None:
            np.copyto(z, -np.inf, where=np.arange(seen) >= self.lengths[heads, None, None])
        if self.mask is not None:
            at = np.unravel_index(np.arange(heads.start, heads.stop), self.batch or (1,))
            mask = self.mask if self.batch else self.mask[None]
            np.copyto(z, -np.inf, where=~mask[at][:, first:last, :seen])


def _attention(
    func: str, q: Array, k: Array, *, scale: Any, causal: Any, mask: Any, lengths: Any
) -> _Attention:  # fmt: skip
    backend = backend_of(func, q=q, k=k, mask=mask, lengths=lengths)
    refuse_cuda(func, backend, "q")
    x, y = to_numpy(func, "q", q), to_numpy(func, "k", k)
    for name, array in (("q", x), ("k", y)):
        check_real(func, name, array)
        if array.ndim < 2:
            raise ValueError(f"{func}: `{name}` must have shape (..., length, d), got {array.shape}")
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"{func}: `q` and `k` must have one d, got {x.shape} and {y.shape}")
    try:
        batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    except ValueError:
        raise ValueError(f"{func}: leading axes of `q` and `k` do not broadcast, {x.shape} and {y.shape}") from None
    factor = 1 / math.sqrt(max(x.shape[-1], 1)) if scale is None else check_number(func, "scale", scale)
    if not abs(factor) <= LARGEST_SCALE:
        raise ValueError(f"{func}: `scale` must be a number of at most 1e30, got {scale!r}")
    heads = math.prod(batch)
    full = (*batch, x.shape[-2], y.shape[-2])
    allowed = None
    if mask is not None:
        allowed = to_numpy(func, "mask", mask)
        if allowed.dtype != np.bool_:
            raise TypeError(f"{func}: `mask` must be boolean, True where an entry counts, got dtype {allowed.dtype}")
        try:
            allowed = np.broadcast_to(allowed, full)
        except ValueError:
            raise ValueError(f"{func}: `mask` of shape {allowed.shape} does not broadcast to {full}") from None
    counts = None
    if lengths is not None:
        counts = to_numpy(func, "lengths", lengths)
        if counts.dtype.kind not in "iu":
            raise TypeError(f"{func}: `lengths` must be integers, got dtype {counts.dtype}")
        if counts.shape != batch[: counts.ndim]:
            raise ValueError(f"{func}: `lengths` must have the shape of leading axes of {batch}, got {counts.shape}")
        if counts.size and not (counts.min() >= 0 and counts.max() <= y.shape[-2]):
            raise ValueError(f"{func}: `lengths` must be between 0 and the number of keys {y.shape[-2]}")
        counts = np.broadcast_to(counts.reshape(counts.shape + (1,) * (len(batch) - counts.ndim)), batch).reshape(-1)

    def flat(a: np.ndarray) -> np.ndarray:
        return np.broadcast_to(a, (*batch, *a.shape[-2:])).reshape(heads, *a.shape[-2:])

    return _Attention(
        backend, (x, y), batch, flat(x), flat(y), factor, check_flag(func, "causal", causal), allowed, counts,
        np.result_type(compute_dtype(x), compute_dtype(y)),
    )  # fmt: skip


def attention_entropy(
    q: Array,
    k: Array,
    *,
    scale: float | None = None,
    causal: bool = False,
    mask: Array | None = None,
    lengths: Array | None = None,
    base: float | None = None,
) -> Any:
    """Entropy of each query's attention, of ``softmax(scale * q @ k.T)`` over the keys it sees.

    Parameters
    ----------
    q : array_like
        Queries, shape (..., n_queries, d): float32, float64, float16 or bfloat16.
    k : array_like
        Keys, shape (..., n_keys, d); the leading axes (batch, heads) broadcast.
    scale : float, optional
        By default 1 / sqrt(d).
    causal : bool, optional
        Let a query see keys up to its own place only. The last query is at the last key: with fewer queries than
        keys the queries are the last of the sequence.
    mask : array_like of bool, optional
        True where a query sees a key; broadcasts to (..., n_queries, n_keys).
    lengths : array_like of int, optional
        How many keys count, the first ones: one number a batch entry (the first leading axis, or the first few).
    base : float, optional
        Of the logarithm; None for nats.

    Returns
    -------
    ndarray
        Shape (..., n_queries), float32 where the inputs have at most 32 bits. 0 for a query that sees no key.

    Raises
    ------
    ValueError, TypeError
        Shapes that do not go together, a mask that is not boolean, lengths out of range.
    DeviceError
        Device arrays: there is no GPU kernel.

    Notes
    -----
    Blocks of 8 MiB of scores by NumPy's matrix product, and the kernel of :func:`softmax_entropy` on each, whose terms
    do not cancel: 2 T^2 d operations a head (half of it if causal), memory O(result). Gradients of `q` and `k`
    (:func:`entropic.vjp`) compute the blocks again and take two more products. Backends: CPU.

    References
    ----------
    S. Zhai et al., "Stabilizing Transformer Training by Preventing Attention Entropy Collapse", ICML 2023.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> q = np.zeros((2, 4, 8))
    >>> entropic.attention_entropy(q, q, causal=True, base=2).round(3)
    array([[0.   , 1.   , 1.585, 2.   ],
           [0.   , 1.   , 1.585, 2.   ]])
    """
    func = "attention_entropy"
    log_base = check_base(func, base)
    problem = _attention(func, q, k, scale=scale, causal=causal, mask=mask, lengths=lengths)
    out = np.empty(problem.q.shape[:2], problem.dtype)
    for heads, queries, z in problem.blocks():
        fields = _core.reduce_states(z, 1 << 2)
        values = np.where(np.isneginf(fields[0]) & (fields[1] == 0), 0.0, _core.finish_states(fields, ENTROPY))
        out[heads, queries] = values / log_base
    return problem.backend.wrap(scalar_or_array(out.reshape(*problem.batch, out.shape[1])))


@rule_for(attention_entropy)
def _attention_entropy_rule(
    q: Array, k: Array, *, scale: Any = None, causal: Any = False, mask: Any = None, lengths: Any = None,
    base: Any = None, wrt: tuple[str, ...] = ()
) -> tuple[Any, Pullback]:  # fmt: skip
    func = "attention_entropy"
    value = attention_entropy(q, k, scale=scale, causal=causal, mask=mask, lengths=lengths, base=base)
    problem = _attention(f"vjp of {func}", q, k, scale=scale, causal=causal, mask=mask, lengths=lengths)
    log_base = check_base(func, base)

    def pullback(g: Any) -> tuple[Any, ...]:
        each = cotangent_of(func, g, (*problem.batch, problem.q.shape[1])).reshape(problem.q.shape[:2]) / log_base
        by_q, by_k = np.zeros(problem.q.shape, problem.dtype), np.zeros(problem.k.shape, problem.dtype)
        factor = problem.dtype.type(problem.scale)
        for heads, queries, z in problem.blocks():
            if not z.size:
                continue
            _core.map_rows(z, 1 << 2, ENTROPY_VJP, np.ascontiguousarray(each[heads, queries]), z)
            z *= factor
            seen = slice(z.shape[2])
            by_q[heads, queries] = z @ problem.k[heads, seen].astype(problem.dtype, copy=False)
            by_k[heads, seen] += np.swapaxes(z, 1, 2) @ problem.q[heads, queries].astype(problem.dtype, copy=False)
        return tuple(
            problem.backend.wrap(
                cast(unbroadcast(grad.reshape(*problem.batch, *grad.shape[1:]), given.shape), float_dtype(given))
            )
            for grad, given in zip((by_q, by_k), problem.given, strict=True)
        )

    return value, pullback
