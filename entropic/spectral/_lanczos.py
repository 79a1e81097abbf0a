"""Parts of a symmetric operator's spectrum: block Lanczos with full orthogonalisation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Product = Callable[[np.ndarray], np.ndarray]


def _orthonormal(block: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """An orthonormal basis of a block that is orthogonal to `basis` up to rounding.

    Where the block has little left in some direction, rounding is a part of that, which is cleaned of `basis`.
    """
    q, r = np.linalg.qr(block)
    diagonal = np.abs(np.diag(r))
    if diagonal.min() <= 1e-3 * max(diagonal.max(), 1e-300):
        for _ in range(2):
            q = np.linalg.qr(q - basis @ (basis.T @ q))[0]
    return np.asarray(q)


def _first_block(start: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An orthonormal basis of the columns of `start`, and K times it, from K times `start`.

    Columns that depend on others, such as coordinates that do, leave their directions out.
    """
    products = start.T @ start
    norms = np.sqrt(np.diag(products))
    inverse = np.divide(1.0, norms, where=norms > 0, out=np.zeros_like(norms))
    squares, directions = np.linalg.eigh(products * inverse[:, None] * inverse)
    independent = squares > 1e-10 * squares[-1]
    mixing = inverse[:, None] * directions[:, independent] / np.sqrt(squares[independent])
    first = start @ mixing
    # once more, for what the division by small roots has left
    again = np.linalg.inv(np.linalg.cholesky(first.T @ first)).T
    return first @ again, image @ (mixing @ again)


class BlockLanczos:
    """A growing orthonormal basis Q with K Q = Q T + what is left: Ritz values, vectors and residuals.

    `start` is the first block, whose columns need not be orthonormal, and `image` K times it.
    """

    def __init__(self, product: Product, start: np.ndarray, image: np.ndarray, most: int) -> None:
        first, self._rest = _first_block(start, image)
        n, self.block = first.shape
        self.most = most // self.block * self.block
        self._product = product
        self._q = np.zeros((n, self.most), order="F")
        self._t = np.zeros((self.most, self.most))
        self._q[:, : self.block] = first
        self.size = 0

    def room(self) -> bool:
        return bool(self.size + self.block <= self.most)

    def step(self) -> None:
        """One product with a block."""
        m, b = self.size, self.block
        if m:
            self._q[:, m : m + b] = _orthonormal(self._rest, self._q[:, :m])
        basis = self._q[:, : m + b]
        rest = self._product(np.ascontiguousarray(basis[:, m:])) if m else self._rest
        part = basis.T @ rest
        rest -= basis @ part
        again = basis.T @ rest
        rest -= basis @ again
        self._t[: m + b, m : m + b] = part + again
        self._t[m : m + b, : m + b] = (part + again).T
        self._rest, self.size = rest, m + b

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values, coefficients of the vectors in the basis, and the norms of their residuals."""
        t = self._t[: self.size, : self.size]
        values, coefficients = np.linalg.eigh((t + t.T) / 2)
        residuals = np.linalg.norm(self._rest @ coefficients[-self.block :], axis=0)
        return values, coefficients, residuals

    def vectors(self, coefficients: np.ndarray) -> np.ndarray:
        return np.asarray(self._q[:, : self.size] @ coefficients)
