"""Fixtures that run a test for every instruction set and thread count of the machine."""

import numpy as np
import pytest

import entropic
from entropic import _core


@pytest.fixture(params=_core.isa_compiled())
def isa(request):
    """Forces one instruction set; skips those that the machine lacks."""
    before = _core.isa_active()
    if not _core.force_isa(request.param):
        pytest.skip(f"this machine has no {request.param}")
    assert _core.isa_active() == request.param
    yield request.param
    _core.force_isa(before)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    with entropic.num_threads(request.param):
        yield request.param


@pytest.fixture
def rng():
    return np.random.default_rng(20260717)
