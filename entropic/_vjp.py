"""Vector-Jacobian products: one registry for every family.

A rule takes the arguments of its function and returns the function's value with a pullback. The pullback maps a
cotangent of the value to one gradient for each positional array, then one for each keyword array named in `wrt`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from ._backend import to_numpy

Pullback = Callable[[Any], tuple[Any, ...]]
Rule = Callable[..., tuple[Any, Pullback]]

_rules: dict[Callable[..., Any], Rule] = {}
_keyword_arrays: dict[Callable[..., Any], tuple[str, ...]] = {}


def rule_for(func: Callable[..., Any], *, keyword_arrays: tuple[str, ...] = ()) -> Callable[[Rule], Rule]:
    """Register the decorated rule as that of `func`; it is called with `wrt` beside the function's own arguments."""

    def register(rule: Rule) -> Rule:
        _rules[func] = rule
        _keyword_arrays[func] = keyword_arrays
        return rule

    return register


def rules() -> tuple[Callable[..., Any], ...]:
    """The functions that have one."""
    return tuple(_rules)


def keyword_arrays_of(func: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the keyword arrays that `func` has gradients for."""
    return _keyword_arrays[func]


def cotangent_of(func: str, g: Any, shape: tuple[int, ...], name: str = "cotangent") -> np.ndarray:
    """The cotangent as float64, broadcast to the value's shape."""
    array = to_numpy(f"pullback of {func}", name, g)
    if array.dtype.kind == "c":
        raise TypeError(f"pullback of {func}: `{name}` must be real, got dtype {array.dtype}")
    array = array.astype(np.float64)
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(f"pullback of {func}: the {name} must have shape {shape}, got {array.shape}") from None


def unbroadcast(grad: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum over the axes along which an array of `shape` was repeated."""
    extra = grad.ndim - len(shape)
    repeated = tuple(range(extra)) + tuple(
        extra + d for d, n in enumerate(shape) if n == 1 and grad.shape[extra + d] != 1
    )
    return np.asarray(grad.sum(axis=repeated)).reshape(shape)


def by_name(
    func: Callable[..., Any], arrays: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with those by name that have no gradient, such as labels, wherever they were given."""
    try:
        inspect.signature(func).bind(*arrays, **options)
    except TypeError as error:
        raise TypeError(f"{func.__name__}: {error}") from None
    rule = list(inspect.signature(_rules[func]).parameters.values())
    if any(p.kind is p.VAR_POSITIONAL for p in rule):
        return arrays, options
    count = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in rule)
    names = list(inspect.signature(func).parameters)[count : len(arrays)]
    return arrays[:count], {**options, **dict(zip(names, arrays[count:], strict=True))}


def vjp(func: Callable[..., Any], *arrays: Any, wrt: tuple[str, ...] = (), **options: Any) -> tuple[Any, Pullback]:
    """Value of ``func(*arrays, **options)`` and the function that pulls a cotangent back to the arrays.

    The gradients are closed forms, evaluated when the pullback is called; nothing is unrolled or taped.

    Parameters
    ----------
    func : callable
        A differentiable function of this package, such as :func:`entropic.logsumexp`.
    *arrays : array_like
        Its array arguments, in order. Each gets a gradient of its shape, but for those such as labels that have none.
    wrt : tuple of str, optional
        Names of keyword arrays that get a gradient as well, after the positional ones, such as ``("b",)``.
    **options
        The function's other arguments.

    Returns
    -------
    value
        What the function returns.
    pullback : callable
        ``pullback(cotangent)`` with a cotangent of the value's shape (or a scalar, which is broadcast) returns a tuple
        of gradients, in the inputs' float type. Functions whose value has several parts, such as
        :func:`entropic.sinkhorn`, say what their cotangents are.

    Raises
    ------
    TypeError
        If `func` has no rule, or `wrt` names an argument that cannot be differentiated.

    Notes
    -----
    The gradient of a row that holds nothing but -inf is 0. Backends: those of `func`, CPU only at present.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> value, pullback = entropic.vjp(entropic.logsumexp, np.array([0.0, 0.0]))
    >>> pullback(1.0)
    (array([0.5, 0.5]),)
    """
    rule = _rules.get(func)
    if rule is None:
        name = getattr(func, "__name__", repr(func))
        known = ", ".join(sorted(f.__name__ for f in _rules))
        raise TypeError(f"vjp: {name} has no gradient rule; there are rules for {known}")
    wrt = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    for name in wrt:
        if name not in _keyword_arrays[func]:
            allowed = _keyword_arrays[func] or "none"
            raise TypeError(f"vjp: `wrt` names {name!r}, but {func.__name__} has gradients for {allowed} by keyword")
        if options.get(name) is None:
            raise TypeError(f"vjp: `wrt` names {name!r}, which is not among the arguments")
    if not arrays:
        raise TypeError(f"vjp: pass the arrays of {func.__name__}")
    if "out" in options:
        raise TypeError(f"vjp: `out` is not supported, {func.__name__} returns a value of its own here")
    arrays, options = by_name(func, arrays, options)
    value, rule_pullback = rule(*arrays, wrt=wrt, **options)

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        with np.errstate(all="ignore"):  # infinities are handled where they mean something
            grads = rule_pullback(cotangent)
        # arrays that could have been positional and were given by name have gradients in between
        return grads[: len(arrays)] + grads[len(grads) - len(wrt) :] if len(grads) > len(arrays) + len(wrt) else grads

    return value, pullback
