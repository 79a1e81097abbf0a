"""Functions of the package with a backward pass: ``entropic.torch.logsumexp(x, axis=1)`` for tensors.

Every function that :func:`entropic.vjp` has a rule for is here under its name, takes its arguments, and returns tensors
that torch can differentiate once, by the same closed forms. Host tensors are read in place.

Examples
--------
>>> import torch, entropic.torch
>>> x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
>>> entropic.torch.logsumexp(x).backward()
>>> x.grad
tensor([0.3333, 0.3333, 0.3333], dtype=torch.float64)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

import entropic

from ._vjp import by_name, keyword_arrays_of, rules, vjp

# What a result may hold that has a gradient: of transport, and of logit statistics.
_PARTS = (
    "value", "transport_cost", "f", "g", "plan",
    "logsumexp", "entropy", "logprob", "max_logit", "max_prob", "collision", "varentropy", "expectation",
)  # fmt: skip


class _Node(torch.autograd.Function):  # type: ignore[misc,untyped-decorator,unused-ignore]
    """One call: `run` makes values and a pullback of detached tensors."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], *tensors: torch.Tensor) -> Any:
        values, ctx.pullback = run([x.detach() for x in tensors])
        return values if len(values) > 1 else values[0]

    @staticmethod
    @once_differentiable  # type: ignore[misc,untyped-decorator,unused-ignore]
    def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
        return None, *ctx.pullback(cotangents)


def _as_tensor(value: Any, like: torch.Tensor) -> torch.Tensor:
    """Results of the package, whose floats take the type of the first argument."""
    if isinstance(value, torch.Tensor):
        return value
    dtype = like.dtype if like.dtype.is_floating_point else torch.float64
    return torch.as_tensor(value, dtype=dtype)


def _part(result: Any, name: str) -> Any:
    """A field, or what a method makes when it is asked for, as plans are."""
    found = getattr(result, name)
    return found() if callable(found) else found


def _flat(arrays: list[Any]) -> list[Any]:
    """Tensors one by one: points come as a pair (x, y)."""
    return [x for array in arrays for x in (array if isinstance(array, tuple) else (array,))]


def _nested(flat: list[Any], like: list[Any], metric: str) -> list[Any]:
    """The same in the places that they came from, a pair of points as a cost."""
    found = iter(flat)
    return [
        entropic.PointCloud(next(found), next(found), metric=metric) if isinstance(array, tuple) else next(found)
        for array in like
    ]


@cache
def _differentiable(func: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arrays: Any, parts: Any = "value", **options: Any) -> Any:
        # only pairs of points need it here: for other functions it is an option of their own
        metric = options.pop("metric", "sqeuclidean") if any(isinstance(x, tuple) for x in arrays) else ""
        arrays, options = by_name(func, arrays, options)
        names = (parts,) if isinstance(parts, str) else tuple(parts)
        if not set(names) <= set(_PARTS) or not names:
            raise ValueError(f"{func.__name__}: `parts` must be of {', '.join(_PARTS)}, got {parts!r}")
        wrt = tuple(name for name in keyword_arrays_of(func) if isinstance(options.get(name), torch.Tensor))
        given = list(arrays)  # of which a pair of points is one, and two tensors
        tensors = [torch.as_tensor(x) for x in _flat(given)] + [options.pop(name) for name in wrt]
        rest = {name: x.detach() if isinstance(x, torch.Tensor) else x for name, x in options.items()}

        def run(detached: list[torch.Tensor]) -> Any:
            split = len(detached) - len(wrt)
            named = {name: x if x.ndim else x.item() for name, x in zip(wrt, detached[split:], strict=True)}
            result, pullback = vjp(func, *_nested(detached[:split], given, metric), wrt=wrt, **rest, **named)
            if hasattr(result, names[0]):
                values = tuple(_as_tensor(_part(result, name), detached[0]) for name in names)
            elif names == ("value",) and not isinstance(result, entropic.LogitStats):
                values = (_as_tensor(result, detached[0]),)
            else:
                raise ValueError(f"{func.__name__}: its value has no `parts` {parts!r}")

            def pull(cotangents: tuple[torch.Tensor, ...]) -> list[Any]:
                by_name = dict(zip(names, cotangents, strict=True))
                found = _flat(list(pullback(by_name if names != ("value",) else cotangents[0])))
                return [
                    None if g is None else torch.as_tensor(g, dtype=x.dtype)
                    for g, x in zip(found, tensors, strict=True)
                ]

            return values, pull

        return _Node.apply(run, *tensors)

    call.__name__ = call.__qualname__ = func.__name__
    call.__doc__ = f"""As :func:`entropic.{func.__name__}`, for tensors, with a backward pass.

    Parameters
    ----------
    *arrays : torch.Tensor
        The function's arrays on the host. Where it takes a cost, a pair (x, y) of points is one.
    parts : str or tuple of str
        Of a result with several: which to return, as one tensor or several. "value", "transport_cost", "f", "g" or
        "plan" of a transport result; a field of logit statistics, which have no "value".
    metric : str
        Of a pair of points, as in :class:`entropic.PointCloud`.
    **options
        The function's other arguments. Tensors among them get gradients where :func:`entropic.vjp` has them.
    """
    return call


def __getattr__(name: str) -> Callable[..., Any]:
    for func in rules():
        if func.__name__ == name:
            return _differentiable(func)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {', '.join(__dir__())}")


def __dir__() -> list[str]:
    return sorted(func.__name__ for func in rules())
