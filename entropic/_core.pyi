from __future__ import annotations

import collections.abc
import typing

import numpy
import numpy.typing

__all__: list[str] = [
    "PointIndex",
    "PointKernel",
    "TransportCost",
    "coupling_bound",
    "coupling_encode",
    "coupling_entropy",
    "coupling_exact_atoms",
    "coupling_greedy_entropy",
    "coupling_grid",
    "coupling_solve",
    "coupling_solve_batch",
    "cuda_build",
    "divergences",
    "elementwise",
    "finish_states",
    "finish_tokens",
    "force_isa",
    "get_num_threads",
    "gram_matrices",
    "isa_active",
    "isa_available",
    "isa_compiled",
    "isa_float_lanes",
    "log_abs_states",
    "logsumexp_quick",
    "map_rows",
    "merge_signed",
    "merge_states",
    "merge_tokens",
    "neighbor_pairs",
    "reduce",
    "reduce_dot",
    "reduce_segments",
    "reduce_signed",
    "reduce_states",
    "scan",
    "set_num_threads",
    "single_product",
    "sum_softmax",
    "symmetric_eigenvalues",
    "token_states",
    "token_states_quick",
    "transport_apply",
    "transport_cost_range",
    "transport_cost_rows",
    "transport_marginals",
    "transport_plan",
    "transport_semidual",
    "transport_softmin",
    "transport_solve",
    "version",
    "weigh_gaps",
]

class PointIndex:
    def __init__(self, x: typing.Annotated[numpy.typing.ArrayLike, numpy.float64]) -> None: ...
    def count(
        self,
        q: typing.Annotated[numpy.typing.ArrayLike, numpy.float64] | None,
        radii: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
        metric: typing.SupportsInt | typing.SupportsIndex,
        strict: bool,
        exclude: typing.SupportsInt | typing.SupportsIndex,
    ) -> numpy.typing.NDArray[numpy.int64]: ...
    def distances(
        self, k: typing.SupportsInt | typing.SupportsIndex, metric: typing.SupportsInt | typing.SupportsIndex
    ) -> numpy.typing.NDArray[numpy.float64]: ...
    def nearest(
        self,
        q: typing.Annotated[numpy.typing.ArrayLike, numpy.float64] | None,
        k: typing.SupportsInt | typing.SupportsIndex,
        metric: typing.SupportsInt | typing.SupportsIndex,
        exclude: typing.SupportsInt | typing.SupportsIndex,
    ) -> tuple[numpy.typing.NDArray[numpy.float64], numpy.typing.NDArray[numpy.int64]]: ...
    @property
    def d(self) -> int: ...
    @property
    def n(self) -> int: ...

class PointKernel:
    def __init__(
        self,
        x: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
        rates: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    ) -> None: ...
    def dense(self, single: bool = False) -> numpy.ndarray: ...
    def product(
        self,
        v: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
        w: typing.Annotated[numpy.typing.ArrayLike, numpy.float64] | None = None,
    ) -> tuple[numpy.typing.NDArray[numpy.float64], numpy.typing.NDArray[numpy.float64] | None]: ...
    @property
    def n(self) -> int: ...

class TransportCost:
    @typing.overload
    def __init__(
        self,
        x: numpy.ndarray,
        y: numpy.ndarray | None,
        metric: typing.SupportsInt | typing.SupportsIndex,
        scale: typing.SupportsFloat | typing.SupportsIndex,
    ) -> None: ...
    @typing.overload
    def __init__(
        self,
        axes: collections.abc.Sequence[typing.Annotated[numpy.typing.ArrayLike, numpy.float64]],
        batch: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def repeated(self, batch: typing.SupportsInt | typing.SupportsIndex) -> TransportCost:
        """
        A grid's costs for so many problems.
        """

def coupling_bound(
    marginals: collections.abc.Sequence[typing.Annotated[numpy.typing.ArrayLike, numpy.uint64]],
    total: typing.SupportsInt | typing.SupportsIndex,
    which: typing.SupportsInt | typing.SupportsIndex,
    measure: typing.SupportsInt | typing.SupportsIndex,
    order: typing.SupportsFloat | typing.SupportsIndex,
) -> float: ...
def coupling_encode(
    mass: typing.Annotated[numpy.typing.ArrayLike, numpy.uint64],
    total: typing.SupportsInt | typing.SupportsIndex,
    rate: typing.SupportsFloat | typing.SupportsIndex,
    search: typing.SupportsInt | typing.SupportsIndex,
) -> tuple[numpy.typing.NDArray[numpy.int32], int, int, int, int, float, float]: ...
def coupling_entropy(
    mass: typing.Annotated[numpy.typing.ArrayLike, numpy.uint64],
    total: typing.SupportsInt | typing.SupportsIndex,
    measure: typing.SupportsInt | typing.SupportsIndex,
    order: typing.SupportsFloat | typing.SupportsIndex,
) -> float: ...
def coupling_greedy_entropy(
    marginals: collections.abc.Sequence[typing.Annotated[numpy.typing.ArrayLike, numpy.uint64]],
    total: typing.SupportsInt | typing.SupportsIndex,
    measure: typing.SupportsInt | typing.SupportsIndex,
    order: typing.SupportsFloat | typing.SupportsIndex,
) -> tuple[float, float]: ...
def coupling_grid(
    p: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
) -> tuple[
    numpy.typing.NDArray[numpy.uint64],
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.int64],
]: ...
def coupling_solve(
    marginals: collections.abc.Sequence[typing.Annotated[numpy.typing.ArrayLike, numpy.uint64]],
    total: typing.SupportsInt | typing.SupportsIndex,
    method: typing.SupportsInt | typing.SupportsIndex,
    measure: typing.SupportsInt | typing.SupportsIndex,
    order: typing.SupportsFloat | typing.SupportsIndex,
) -> tuple[numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.uint64], float, float, int]: ...
def coupling_solve_batch(
    p: typing.Annotated[numpy.typing.ArrayLike, numpy.uint64],
    q: typing.Annotated[numpy.typing.ArrayLike, numpy.uint64],
    total: typing.SupportsInt | typing.SupportsIndex,
    method: typing.SupportsInt | typing.SupportsIndex,
    measure: typing.SupportsInt | typing.SupportsIndex,
    order: typing.SupportsFloat | typing.SupportsIndex,
) -> tuple[
    numpy.typing.NDArray[numpy.int32],
    numpy.typing.NDArray[numpy.uint64],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.int32],
]: ...
def divergences(
    x: numpy.ndarray,
    y: numpy.ndarray,
    kind: typing.SupportsInt | typing.SupportsIndex,
    power: typing.SupportsFloat | typing.SupportsIndex,
) -> numpy.typing.NDArray[numpy.float64]: ...
def elementwise(name: str, x: numpy.ndarray) -> numpy.ndarray: ...
def finish_states(
    fields: numpy.typing.NDArray[numpy.float64], value: typing.SupportsInt | typing.SupportsIndex
) -> numpy.typing.NDArray[numpy.float64]: ...
def finish_tokens(fields: numpy.typing.NDArray[numpy.float64], single: bool) -> numpy.ndarray: ...
def force_isa(name: str) -> bool: ...
def get_num_threads() -> int: ...
@typing.overload
def gram_matrices(z: numpy.typing.NDArray[numpy.float32]) -> numpy.typing.NDArray[numpy.float64]: ...
@typing.overload
def gram_matrices(z: numpy.typing.NDArray[numpy.float64]) -> numpy.typing.NDArray[numpy.float64]: ...
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
def merge_tokens(a: numpy.typing.NDArray[numpy.float64], b: numpy.typing.NDArray[numpy.float64]) -> None: ...
def neighbor_pairs(
    columns: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    pairs: typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
    k: typing.SupportsInt | typing.SupportsIndex,
    digamma: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
) -> tuple[
    numpy.typing.NDArray[numpy.float64], numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.int64]
]: ...
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
def single_product(
    g: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    v: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    w: typing.Annotated[numpy.typing.ArrayLike, numpy.float64] | None = None,
) -> tuple[numpy.typing.NDArray[numpy.float64], numpy.typing.NDArray[numpy.float64] | None]: ...
def sum_softmax(
    x: numpy.ndarray, factor: numpy.typing.NDArray[numpy.float64]
) -> numpy.typing.NDArray[numpy.float64]: ...
def symmetric_eigenvalues(
    a: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
) -> numpy.typing.NDArray[numpy.float64]: ...
def token_states(
    a: numpy.ndarray,
    axis: typing.SupportsInt | typing.SupportsIndex,
    inverse: numpy.typing.NDArray[numpy.float64],
    targets: numpy.typing.NDArray[numpy.int64] | None,
    values: numpy.ndarray | None,
) -> numpy.typing.NDArray[numpy.float64]: ...
def token_states_quick(a: numpy.ndarray, targets: typing.Any, axis: typing.Any) -> typing.Any: ...
def transport_apply(
    cost: TransportCost,
    a: numpy.ndarray,
    b: numpy.ndarray,
    f: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    g: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    eps: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    v: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    transpose: bool,
) -> numpy.typing.NDArray[numpy.float64]: ...
def transport_cost_range(
    cost: TransportCost,
) -> tuple[
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.bool],
    numpy.typing.NDArray[numpy.bool],
    numpy.typing.NDArray[numpy.bool],
    numpy.typing.NDArray[numpy.bool],
    numpy.typing.NDArray[numpy.bool],
]: ...
def transport_cost_rows(
    cost: TransportCost,
    first: typing.SupportsInt | typing.SupportsIndex,
    count: typing.SupportsInt | typing.SupportsIndex,
) -> numpy.ndarray: ...
def transport_marginals(
    cost: TransportCost,
    a: numpy.ndarray,
    b: numpy.ndarray,
    f: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    g: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    eps: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    total: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    rows: tuple[
        typing.SupportsInt | typing.SupportsIndex,
        typing.SupportsFloat | typing.SupportsIndex,
        typing.SupportsFloat | typing.SupportsIndex,
    ],
    cols: tuple[
        typing.SupportsInt | typing.SupportsIndex,
        typing.SupportsFloat | typing.SupportsIndex,
        typing.SupportsFloat | typing.SupportsIndex,
    ],
    mass: typing.SupportsFloat | typing.SupportsIndex,
) -> tuple[
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.int32],
]: ...
def transport_plan(
    cost: TransportCost,
    a: numpy.ndarray,
    b: numpy.ndarray,
    f: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    g: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    eps: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    first: typing.SupportsInt | typing.SupportsIndex,
    count: typing.SupportsInt | typing.SupportsIndex,
) -> numpy.ndarray: ...
def transport_semidual(
    cost: TransportCost,
    a: numpy.ndarray,
    b: numpy.ndarray,
    f: numpy.typing.NDArray[numpy.float64],
    g: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    eps: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    rows: tuple[
        typing.SupportsInt | typing.SupportsIndex,
        typing.SupportsFloat | typing.SupportsIndex,
        typing.SupportsFloat | typing.SupportsIndex,
    ],
) -> tuple[numpy.typing.NDArray[numpy.float64], numpy.typing.NDArray[numpy.float64]]: ...
def transport_softmin(
    cost: TransportCost,
    h: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    eps: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    over_rows: bool,
) -> numpy.typing.NDArray[numpy.float64]: ...
def transport_solve(
    cost: TransportCost,
    a: numpy.ndarray,
    b: numpy.ndarray,
    f: numpy.typing.NDArray[numpy.float64],
    g: numpy.typing.NDArray[numpy.float64],
    eps: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    start: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    total: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    rows: tuple[
        typing.SupportsInt | typing.SupportsIndex,
        typing.SupportsFloat | typing.SupportsIndex,
        typing.SupportsFloat | typing.SupportsIndex,
    ],
    cols: tuple[
        typing.SupportsInt | typing.SupportsIndex,
        typing.SupportsFloat | typing.SupportsIndex,
        typing.SupportsFloat | typing.SupportsIndex,
    ],
    mass: typing.SupportsFloat | typing.SupportsIndex,
    tol: typing.SupportsFloat | typing.SupportsIndex,
    max_iter: typing.SupportsInt | typing.SupportsIndex,
    accelerate: bool,
    single: bool,
    patience: typing.SupportsFloat | typing.SupportsIndex,
    reach: typing.SupportsFloat | typing.SupportsIndex,
    callback: collections.abc.Callable[[int, float], bool] | None,
) -> tuple[
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.int32],
]: ...
def weigh_gaps(
    x: numpy.ndarray,
    tops: numpy.typing.NDArray[numpy.float64],
    w: numpy.ndarray | None,
    c: numpy.typing.NDArray[numpy.float64] | None,
) -> numpy.typing.NDArray[numpy.float64]: ...

coupling_exact_atoms: int = 22
cuda_build: str
version: str
