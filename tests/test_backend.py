"""Libraries and devices: who goes with whom, what comes back, and what is refused with which words."""

import sys
import types

import numpy as np
import pytest
from reference import logits as reference

import entropic
from entropic import _backend


class FakeArray:
    """As much of a device array as dispatch looks at."""

    __module__ = "cupy"
    dtype = np.dtype(np.float64)
    ndim = 1
    shape = (3,)

    def __init__(self, kind=2, index=0):
        self.device_pair = (kind, index)

    def __dlpack_device__(self):
        return self.device_pair

    def __dlpack__(self, **kwargs):
        raise AssertionError("the data of a refused array was touched")


class OtherFakeArray(FakeArray):
    __module__ = "otherlib"


def without_cuda(monkeypatch):
    monkeypatch.setitem(sys.modules, "entropic._cuda", None)
    monkeypatch.delattr(entropic, "_cuda", raising=False)


REDUCTIONS = [entropic.logsumexp, entropic.logmeanexp, entropic.softmax_entropy]
HOST_ONLY = [
    (entropic.softmax, "x"), (entropic.log_softmax, "x"), (entropic.logcumsumexp, "a"),
    (lambda a: entropic.segment_logsumexp(a, FakeArray()), "a"), (lambda a: entropic.LogSumExp().update(a), "chunk"),
]  # fmt: skip


@pytest.mark.parametrize("func", REDUCTIONS)
def test_device_array_without_cuda_code(monkeypatch, func):
    without_cuda(monkeypatch)
    text = (
        rf"{func.__name__}: `(a|logits)` is on cuda:0, but this build of entropic has no CUDA code .* "
        r"pass a host array \(cupy: x.get\(\), torch: x.cpu\(\)\)"
    )
    with pytest.raises(entropic.DeviceError, match=text):
        func(FakeArray())


@pytest.mark.parametrize("func", REDUCTIONS)
def test_device_array_without_driver(monkeypatch, func):
    problem = "the NVIDIA driver is missing or older than CUDA 13 needs (cudaErrorInsufficientDriver)"
    fake = types.SimpleNamespace(problem=lambda: problem)
    monkeypatch.setitem(sys.modules, "entropic._cuda", fake)
    monkeypatch.setattr(entropic, "_cuda", fake, raising=False)
    with pytest.raises(entropic.DeviceError, match=r"is on cuda:1, but the NVIDIA driver is missing or older"):
        func(FakeArray(index=1))


@pytest.mark.parametrize(("func", "name"), HOST_ONLY)
def test_functions_without_a_gpu_kernel(func, name):
    with pytest.raises(
        entropic.DeviceError, match=rf"`{name}` is on cuda:0, and this function has no CUDA implementation"
    ):
        func(FakeArray())


def test_weights_on_a_device(monkeypatch):
    without_cuda(monkeypatch)
    with pytest.raises(entropic.DeviceError, match="no CUDA code"):
        entropic.logsumexp(FakeArray(), b=FakeArray())


def test_mixtures_are_refused():
    with pytest.raises(
        TypeError, match="logsumexp: `a` is a numpy array but `b` is a cupy array; move them to one library"
    ):
        entropic.logsumexp(np.zeros(3), b=FakeArray())
    with pytest.raises(TypeError, match="logsumexp: `a` is a cupy array but `b` is a otherlib array"):
        entropic.logsumexp(FakeArray(), b=OtherFakeArray())
    with pytest.raises(ValueError, match="logsumexp: `a` is on cuda:0 but `b` is on cuda:1"):
        entropic.logsumexp(FakeArray(), b=FakeArray(index=1))
    with pytest.raises(TypeError, match="logsumexp: `b` is a list but `a` is a cupy array; convert the list"):
        entropic.logsumexp(FakeArray(), b=[1.0, 2.0, 3.0])
    with pytest.raises(entropic.DeviceError, match="`a` is on a device of DLPack type 10; only the CPU and CUDA"):
        entropic.logsumexp(FakeArray(kind=10))
    needs_grad = FakeArray(kind=1)
    needs_grad.requires_grad = True
    with pytest.raises(TypeError, match=r"logsumexp: `a` requires grad, which would be lost; pass a.detach\(\)"):
        entropic.logsumexp(needs_grad)


def test_numpy_subclasses_and_array_likes():
    x = np.arange(4.0)
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix(x)
    with pytest.raises(TypeError, match=r"logsumexp: `a` is a numpy.matrix; pass numpy.asarray\(a\)"):
        entropic.logsumexp(matrix)

    class Named(np.ndarray):
        pass

    assert entropic.logsumexp(x.view(Named)) == entropic.logsumexp(x)

    class ArrayLike:
        def __array__(self, dtype=None, copy=None):
            return x

    assert entropic.logsumexp(ArrayLike()) == entropic.logsumexp(x)


def test_the_fast_way_is_the_common_one():
    assert _backend.backend_of("f", a=np.zeros(3), b=None) is _backend.NUMPY


class TestTorch:
    """Host tensors are read in place and answered in kind."""

    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch")

    def test_round_trip(self, torch, rng):
        x = torch.from_numpy(rng.normal(size=(4, 9)))
        got = entropic.logsumexp(x, axis=1)
        assert isinstance(got, torch.Tensor)
        torch.testing.assert_close(got, torch.logsumexp(x, 1))
        torch.testing.assert_close(entropic.softmax(x.T, axis=0), torch.softmax(x.T, 0))
        assert isinstance(entropic.logsumexp(x), torch.Tensor)
        value, sign = entropic.logsumexp(x, b=x, return_sign=True)
        assert isinstance(value, torch.Tensor)
        assert isinstance(sign, torch.Tensor)
        out = torch.empty(4, dtype=torch.float64)
        assert entropic.logsumexp(x, axis=1, out=out) is out
        torch.testing.assert_close(out, got)
        _, pullback = entropic.vjp(entropic.logsumexp, x, axis=1)
        (grad,) = pullback(torch.ones(4))
        torch.testing.assert_close(grad, torch.softmax(x, 1))
        stream = entropic.LogSumExp()
        stream.update(x)
        torch.testing.assert_close(stream.logsumexp, got)
        with pytest.raises(TypeError, match=r"the stream holds torch data but `chunk` is a numpy array"):
            stream.update(np.zeros((4, 2)))

    def test_bfloat16(self, torch, rng):
        x = torch.from_numpy(rng.normal(size=(4, 900)).astype(np.float32)).bfloat16()
        got = entropic.logsumexp(x, axis=1)
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got, torch.logsumexp(x.float(), 1).bfloat16())

    def test_refusals(self, torch):
        x = torch.zeros(3, requires_grad=True)
        with pytest.raises(TypeError, match=r"logsumexp: `a` requires grad, which would be lost; pass a.detach\(\)"):
            entropic.logsumexp(x)
        conjugate = torch.zeros(3, dtype=torch.complex64).conj()
        with pytest.raises(TypeError, match="logsumexp: `a` cannot be read as an array: "):
            entropic.logsumexp(conjugate)
        with pytest.raises(TypeError, match="logsumexp: `a` is a torch array but `b` is a numpy array"):
            entropic.logsumexp(x.detach(), b=np.ones(3))


def test_jax_round_trip(rng):
    jax = pytest.importorskip("jax")
    x = jax.numpy.asarray(rng.normal(size=(4, 9)), dtype="float32")
    got = entropic.logsumexp(x, axis=1)
    assert isinstance(got, jax.Array)
    np.testing.assert_allclose(np.asarray(got), np.asarray(jax.nn.logsumexp(x, axis=1)), rtol=1e-6)
    assert entropic.softmax(x.astype("bfloat16"), axis=1).dtype == "bfloat16"


# ---- on a device -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["cupy", "torch"])
def device_array(request):
    """Moves a NumPy array to the GPU, in either library, and back; skips where there is none."""
    try:
        from entropic import _cuda
    except ImportError:
        pytest.skip("this build has no CUDA code")
    if _cuda.problem():
        pytest.skip(_cuda.problem())
    library = pytest.importorskip(request.param)
    if request.param == "cupy":
        return library.asarray, library.asnumpy
    return lambda x: library.from_numpy(np.ascontiguousarray(x)).cuda(), lambda x: x.cpu().numpy()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize(
    "shape", [(5,), (3, 7), (1000, 40), (7, 5000), (2, 300000), (300, 4, 50), (4096, 33), (0, 4), (4, 0)]
)
def test_reductions_on_the_device(device_array, dtype, shape, rng):
    to_device, to_host = device_array
    x = (rng.normal(size=shape) * 4).astype(dtype)
    x[rng.random(shape) < 0.1] = -np.inf
    y = to_device(x)
    for axis in (None, *range(len(shape)), tuple(range(len(shape)))):
        for func in REDUCTIONS:
            got = func(y, axis=axis)
            assert type(got) is type(y)
            want = np.asarray(func(x, axis=axis))
            assert tuple(got.shape) == want.shape
            tolerance = 8 * float(np.finfo(dtype).eps)
            np.testing.assert_allclose(to_host(got), want, rtol=tolerance, atol=tolerance, err_msg=f"{axis}")


@pytest.mark.gpu
def test_edges_on_the_device(device_array, rng):
    to_device, to_host = device_array
    for n in (1, 31, 33, 1024, 1025, 100000):
        x = np.zeros((6, n), np.float32)
        x[1], x[2, n // 2], x[3, n - 1], x[4, 0] = -np.inf, np.inf, np.nan, 40
        y = to_device(x)
        np.testing.assert_allclose(to_host(entropic.logsumexp(y, axis=1)), entropic.logsumexp(x, axis=1), rtol=3e-7)
        np.testing.assert_allclose(to_host(entropic.softmax_entropy(y)), entropic.softmax_entropy(x), rtol=3e-7)
    peaked = np.zeros(32000, np.float32)
    peaked[7] = 40
    got = float(to_host(entropic.softmax_entropy(to_device(peaked))))
    assert reference.relative_error(got, reference.entropy(peaked)) < 4e-7


@pytest.mark.gpu
def test_log_probabilities_on_the_device(rng):
    cupy = pytest.importorskip("cupy")
    from entropic import _cuda

    x = rng.normal(size=(50, 3000)).astype(np.float32) * 5
    targets = rng.integers(0, 3000, 50)
    y, t = cupy.asarray(x), cupy.asarray(targets)
    out = cupy.empty(50, dtype="float32")
    scratch = cupy.empty(_cuda.scratch_bytes(50, 3000), dtype="uint8")
    _cuda.log_probabilities(0, y.data.ptr, 50, 3000, 3000, 1, t.data.ptr, out.data.ptr, scratch.data.ptr,
                            y.device.id, cupy.cuda.get_current_stream().ptr)  # fmt: skip
    want = entropic.log_softmax(x, axis=1)[np.arange(50), targets]
    np.testing.assert_allclose(cupy.asnumpy(out), want, rtol=1e-6)
