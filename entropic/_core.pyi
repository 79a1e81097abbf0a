from __future__ import annotations

import typing

import numpy
import numpy.typing

__all__: list[str] = [
    "cuda_build",
    "elementwise",
    "finish_states",
    "force_isa",
    "get_num_threads",
    "isa_active",
    "isa_available",
    "isa_compiled",
    "isa_float_lanes",
    "log_abs_states",
    "logsumexp_quick",
    "map_rows",
    "merge_signed",
    "merge_states",
    "reduce",
    "reduce_dot",
    "reduce_segments",
    "reduce_signed",
    "reduce_states",
    "scan",
    "set_num_threads",
    "version",
]

def elementwise(name: str, x: numpy.ndarray) -> numpy.ndarray: ...
def finish_states(
    fields: numpy.typing.NDArray[numpy.float64], value: typing.SupportsInt | typing.SupportsIndex
) -> numpy.typing.NDArray[numpy.float64]: ...
def force_isa(name: str) -> bool: ...
def get_num_threads() -> int: ...
def isa_active() -> str: ...
def isa_available() -> list[str]: ...
def isa_compiled() -> list[str]: ...
def isa_float_lanes() -> int: ...
def log_abs_states(fields: numpy.typing.NDArray[numpy.float64]) -> numpy.typing.NDArray[numpy.float64]: ...
def logsumexp_quick(a: numpy.ndarray, axis: typing.Any, keepdims: bool) -> typing.Any: ...
def map_rows(
    a: numpy.ndarray,
    axes: typing.SupportsInt | typing.SupportsIndex,
    map: typing.SupportsInt | typing.SupportsIndex,
    cotangent: typing.Annotated[numpy.typing.ArrayLike, numpy.float64] | None,
    out: numpy.ndarray,
) -> None: ...
def merge_signed(a: numpy.typing.NDArray[numpy.float64], b: numpy.typing.NDArray[numpy.float64]) -> None: ...
def merge_states(a: numpy.typing.NDArray[numpy.float64], b: numpy.typing.NDArray[numpy.float64]) -> None: ...
def reduce(
    a: numpy.ndarray,
    axes: typing.SupportsInt | typing.SupportsIndex,
    keepdims: bool,
    value: typing.SupportsInt | typing.SupportsIndex,
) -> numpy.ndarray: ...
def reduce_dot(
    x: numpy.ndarray,
    y: numpy.ndarray,
    scale: typing.SupportsFloat | typing.SupportsIndex,
    value: typing.SupportsInt | typing.SupportsIndex,
) -> numpy.ndarray: ...
def reduce_segments(
    a: numpy.ndarray,
    ids: typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
    segments: typing.SupportsInt | typing.SupportsIndex,
) -> numpy.typing.NDArray[numpy.float64]: ...
def reduce_signed(
    a: numpy.ndarray, b: numpy.ndarray | None, axes: typing.SupportsInt | typing.SupportsIndex, is_complex: bool
) -> list[numpy.typing.NDArray[numpy.float64]]: ...
def reduce_states(
    a: numpy.ndarray, axes: typing.SupportsInt | typing.SupportsIndex
) -> numpy.typing.NDArray[numpy.float64]: ...
def scan(a: numpy.ndarray, axis: typing.SupportsInt | typing.SupportsIndex, out: numpy.ndarray) -> None: ...
def set_num_threads(n: typing.SupportsInt | typing.SupportsIndex) -> None: ...

cuda_build: str
version: str
