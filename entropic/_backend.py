"""Which library and device the caller's arrays belong to, and how to answer in kind.

NumPy arrays go straight to the compiled module. Host arrays of other libraries (torch, JAX, anything that speaks
DLPack) are read in place and the answer is handed back in their library. Device arrays go to the CUDA module, or are
refused with the reason. No library is ever imported here that the caller has not loaded.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._errors import DeviceError

Array = Any
"""An array of the caller's library."""

_CPU_DEVICES = {1, 3}  # DLPack: kDLCPU, kDLCUDAHost (pinned)
_CUDA_DEVICE = 2


@dataclass(frozen=True)
class Backend:
    """The library and device of one call's arrays."""

    library: str
    device: str = "cpu"

    @property
    def on_cuda(self) -> bool:
        return self.device.startswith("cuda")

    def wrap(self, result: Any) -> Any:
        """Hand a NumPy result back in the caller's library."""
        if self.library == "numpy":
            return result
        # DLPack has no read-only or 0-d scalar form of NumPy's scalars, hence the array.
        host = np.asarray(result)
        if self.library == "torch":
            torch = sys.modules["torch"]
            # torch has no read-only arrays: a write would reach what the result keeps.
            return _torch_from_numpy(torch, host if host.flags.writeable else host.copy())
        if self.library == "jax":
            return sys.modules["jax"].numpy.asarray(host)
        return sys.modules[self.library].from_dlpack(host)


NUMPY = Backend("numpy")


def _torch_from_numpy(torch: Any, host: np.ndarray) -> Any:
    if host.dtype.name == "bfloat16":
        return torch.from_numpy(host.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(host)


def library_of(x: Any) -> str | None:
    """Name of the library that `x` belongs to; None for scalars, lists and tuples, which go along with anything."""
    if isinstance(x, np.ndarray | np.generic):
        return "numpy"
    if isinstance(x, bool | int | float | complex | list | tuple):
        return None
    root = type(x).__module__.partition(".")[0]
    return {"jaxlib": "jax"}.get(root, root)


def _refuse_kind(func: str, name: str, x: Any) -> None:
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{func}: `{name}` is a masked array, whose mask would be lost; pass filled values and weights")
    if isinstance(x, np.matrix):
        raise TypeError(f"{func}: `{name}` is a numpy.matrix; pass numpy.asarray({name})")
    if library_of(x) == "scipy":
        raise TypeError(f"{func}: `{name}` is a sparse array; pass {name}.toarray()")


def _cuda_device(x: Any) -> tuple[int, int]:
    device = x.__dlpack_device__()
    return int(device[0]), int(device[1])


def _describe_device(func: str, name: str, x: Any) -> str:
    kind, index = _cuda_device(x)
    if kind in _CPU_DEVICES:
        return "cpu"
    if kind == _CUDA_DEVICE:
        return f"cuda:{index}"
    raise DeviceError(f"{func}: `{name}` is on a device of DLPack type {kind}; only the CPU and CUDA are supported")


def backend_of(func: str, **arrays: Any) -> Backend:
    """The one backend of all the arrays; raises where they do not go together."""
    if all(x is None or type(x) is np.ndarray for x in arrays.values()):
        return NUMPY
    chosen: tuple[str, str, str] | None = None  # name, library, device
    lists: str | None = None
    for name, x in arrays.items():
        if x is None:
            continue
        _refuse_kind(func, name, x)
        library = library_of(x)
        if library is None:
            if isinstance(x, list | tuple):
                lists = name
            continue
        if library == "numpy":
            device = "cpu"
        elif hasattr(x, "__dlpack_device__") and hasattr(x, "__dlpack__"):
            if getattr(x, "requires_grad", False):
                raise TypeError(f"{func}: `{name}` requires grad, which would be lost; pass {name}.detach()")
            device = _describe_device(func, name, x)
        elif hasattr(x, "__array__"):  # pandas, xarray and others that hand out a NumPy array
            library, device = "numpy", "cpu"
        else:
            raise TypeError(
                f"{func}: `{name}` must be an array (NumPy, CuPy, or any with DLPack), got {type(x).__qualname__}"
            )
        if chosen is None:
            chosen = name, library, device
        elif chosen[1] != library:
            raise TypeError(
                f"{func}: `{chosen[0]}` is a {chosen[1]} array but `{name}` is a {library} array; "
                "move them to one library"
            )
        elif chosen[2] != device:
            raise ValueError(f"{func}: `{chosen[0]}` is on {chosen[2]} but `{name}` is on {device}")
    if chosen is None:
        return NUMPY
    if lists is not None and chosen[1] != "numpy":
        raise TypeError(f"{func}: `{lists}` is a list but `{chosen[0]}` is a {chosen[1]} array; convert the list")
    return Backend(chosen[1], chosen[2])


def _read_in_place(func: str, name: str, x: Any, *, by_dlpack: bool) -> np.ndarray:
    """A view of host memory; JAX and array-likes give one by `__array__` (JAX bfloat16 included)."""
    try:
        return np.from_dlpack(x) if by_dlpack else np.asarray(x)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"{func}: `{name}` cannot be read as an array: {error}") from error


def to_numpy(func: str, name: str, x: Any) -> np.ndarray:
    """A NumPy array over the same host memory (a copy only of lists and scalars), of a dtype that can be computed."""
    if type(x) is not np.ndarray:
        library = library_of(x)
        if library in (None, "numpy"):
            x = _read_in_place(func, name, x, by_dlpack=False)
        elif library == "torch" and str(x.dtype) == "torch.bfloat16":
            import ml_dtypes  # NumPy has no bfloat16 of its own

            x = x.view(sys.modules["torch"].int16).numpy().view(ml_dtypes.bfloat16)
        else:
            x = _read_in_place(func, name, x, by_dlpack=library != "jax" and hasattr(x, "__dlpack__"))
    array: np.ndarray = x
    if array.dtype.kind not in "biufc" and array.dtype.name != "bfloat16":
        raise TypeError(f"{func}: `{name}` must hold numbers, got dtype {array.dtype}")
    if array.dtype.kind in "fc" and array.dtype.itemsize > (16 if array.dtype.kind == "c" else 8):
        raise TypeError(f"{func}: `{name}` has dtype {array.dtype}; extended precision is not supported, pass float64")
    return array


def out_array_of(func: str, out: Any) -> np.ndarray:
    """`out` as a NumPy array over its own memory; lists and scalars have none that could be written to."""
    if library_of(out) is None or isinstance(out, np.generic):
        raise TypeError(f"{func}: `out` must be an array, got {type(out).__qualname__}")
    return to_numpy(func, "out", out)


def cuda_module(func: str, name: str, device: str) -> Any:
    """The CUDA extension, or a DeviceError that says what is missing."""
    try:
        from . import _cuda
    except ImportError:
        raise DeviceError(
            f"{func}: `{name}` is on {device}, but this build of entropic has no CUDA code (see python -m entropic). "
            "Install a build with CUDA, or pass a host array (cupy: x.get(), torch: x.cpu())"
        ) from None
    problem = _cuda.problem()
    if problem:
        raise DeviceError(f"{func}: `{name}` is on {device}, but {problem}")
    return _cuda


def refuse_cuda(func: str, backend: Backend, name: str) -> None:
    """For functions without a GPU kernel."""
    if backend.on_cuda:
        raise DeviceError(
            f"{func}: `{name}` is on {backend.device}, and this function has no CUDA implementation; "
            "pass a host array (cupy: x.get(), torch: x.cpu())"
        )
