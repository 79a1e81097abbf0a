"""Calls into the CUDA module: pointers, strides and the stream of the caller's device arrays.

Only CuPy and torch are known here. Results are allocated by the caller's library, in its pool, and are pending on its
current stream, like those of its own functions.
"""

from __future__ import annotations

import math
import sys
from typing import Any

from ._backend import Array, Backend
from ._errors import DeviceError
from ._validate import kept_shape, normalize_axes

_FLOATS = ("float32", "float64", "float16", "bfloat16")


def _as_rows(backend: Backend, x: Array, axes: tuple[int, ...]) -> Array:
    """`x` as (rows, cols) with the reduced axes last; a copy on the device only where strides cannot say it."""
    kept = [d for d in range(x.ndim) if d not in axes]
    order = (*kept, *axes)
    moved = x.permute(order) if backend.library == "torch" else x.transpose(order)
    rows = math.prod(x.shape[d] for d in kept)
    return moved.reshape(rows, math.prod(x.shape[d] for d in axes))


def device_reduce(
    func: str, cuda: Any, backend: Backend, name: str, x: Array, axis: Any, keepdims: bool, out: Any, value: int
) -> Array:
    """A plain reduction of a device array: one value for each row."""
    library = sys.modules[backend.library]
    if backend.library not in ("cupy", "torch"):
        raise DeviceError(f"{func}: {backend.library} arrays on {backend.device} are not supported; pass cupy or torch")
    if out is not None:
        raise DeviceError(f"{func}: `out` is not supported on {backend.device}")
    dtype = str(x.dtype).removeprefix("torch.")
    if dtype.startswith("complex") or dtype in ("object", "float128"):
        raise TypeError(f"{func}: `{name}` must be real, got dtype {dtype}")
    if dtype not in _FLOATS:
        x = x.to(library.float64) if backend.library == "torch" else x.astype("float64")
        dtype = "float64"
    axes = normalize_axes(func, axis, x.ndim)
    shape = kept_shape(tuple(x.shape), axes, bool(keepdims))
    rows = _as_rows(backend, x, axes)
    result_dtype = "float64" if dtype == "float64" else "float32"
    if backend.library == "torch":
        result = library.empty(rows.shape[0], dtype=getattr(library, result_dtype), device=x.device)
        source, target = rows.data_ptr(), result.data_ptr()
        strides = tuple(rows.stride())
        device, stream = x.device.index or 0, library.cuda.current_stream(x.device).cuda_stream
        scratch = library.empty(cuda.scratch_bytes(rows.shape[0], rows.shape[1]), dtype=library.uint8, device=x.device)
        scratch_pointer = scratch.data_ptr()
    else:
        with x.device:
            result = library.empty(rows.shape[0], dtype=result_dtype)
            scratch = library.empty(cuda.scratch_bytes(rows.shape[0], rows.shape[1]), dtype="uint8")
            stream = library.cuda.get_current_stream().ptr
        source, target, scratch_pointer = rows.data.ptr, result.data.ptr, scratch.data.ptr
        strides = tuple(s // rows.dtype.itemsize for s in rows.strides)
        device = x.device.id
    cuda.reduce_rows(
        _FLOATS.index(dtype), source, rows.shape[0], rows.shape[1], strides[0], strides[1], value, target,
        scratch_pointer, device, stream,
    )  # fmt: skip
    if dtype not in ("float32", "float64"):
        result = result.to(x.dtype) if backend.library == "torch" else result.astype(x.dtype)
    return result.reshape(shape)
