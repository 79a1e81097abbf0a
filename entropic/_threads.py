"""Thread control: our own functions, and threadpoolctl where it is installed."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager

from . import _core


def get_num_threads() -> int:
    """Number of threads that a call may use.

    At first this is the number of CPUs that the process may run on, or fewer where the environment variable
    ``ENTROPIC_NUM_THREADS``, or else ``OMP_NUM_THREADS``, says so.

    Returns
    -------
    int

    Examples
    --------
    >>> import entropic
    >>> entropic.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def set_num_threads(n: int) -> None:
    """Limit the number of threads for the whole process. Results do not depend on it.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is not positive.

    Examples
    --------
    >>> import entropic
    >>> before = entropic.get_num_threads()
    >>> entropic.set_num_threads(1)
    >>> entropic.get_num_threads()
    1
    >>> entropic.set_num_threads(before)
    """
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"set_num_threads: `n` must be an integer, got {n!r}") from None
    if not 1 <= count <= 4096:
        raise ValueError(f"set_num_threads: `n` must be between 1 and 4096, got {count}")
    _core.set_num_threads(count)


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Limit the number of threads inside a ``with`` block; the limit is the process's, not the calling thread's.

    Parameters
    ----------
    n : int
        At least 1.

    Examples
    --------
    >>> import entropic
    >>> with entropic.num_threads(1):
    ...     float(entropic.logsumexp([0.0, 0.0]))
    0.6931471805599453
    """
    before = get_num_threads()
    set_num_threads(n)
    try:
        yield
    finally:
        _core.set_num_threads(before)


def _register_with_threadpoolctl() -> None:
    """Done at import, so that it does not matter which of the two packages comes first."""
    try:
        import threadpoolctl
    except ImportError:
        return

    class EntropicController(threadpoolctl.LibController):  # type: ignore[misc]
        user_api = "entropic"
        internal_api = "entropic"
        filename_prefixes = ("_core.",)
        check_symbols = ("entropic_get_num_threads", "entropic_set_num_threads")

        def get_num_threads(self) -> int:
            return int(self.dynlib.entropic_get_num_threads())

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.entropic_set_num_threads(num_threads)

        def get_version(self) -> str:
            return _core.version

        def set_additional_attributes(self) -> None:
            """Nothing beyond the common ones."""

    threadpoolctl.register(EntropicController)


_register_with_threadpoolctl()
