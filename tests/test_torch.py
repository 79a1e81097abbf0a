"""The registry of gradients as functions of torch: gradcheck of every rule, types, and what is refused."""

import numpy as np
import pytest

import entropic
from entropic._vjp import rules

torch = pytest.importorskip("torch")
import entropic.torch as functions  # noqa: E402  (torch first)

RNG = np.random.default_rng(11)


def normal(*shape):
    return torch.from_numpy(RNG.normal(size=shape))


def ids(n, below):
    return torch.from_numpy(RNG.integers(0, below, n))


def masses(n):
    return torch.from_numpy(RNG.dirichlet(np.full(n, 5.0)))


def psd(n, d):
    a = RNG.normal(size=(n, d, d))
    return torch.from_numpy(a @ np.swapaxes(a, 1, 2) + np.eye(d))


TIGHT = {"eps": 0.5, "tol": 1e-13}
LABELS = np.arange(8) % 2
# For each function arrays and options; its gradient is checked at all of them, and of keyword arrays as well.
CASES = [
    ("logsumexp", (normal(3, 5),), {"axis": 1}),
    ("logsumexp", (normal(3, 5),), {"axis": 0, "b": normal(3, 5).abs() + 0.1}),
    ("logmeanexp", (normal(3, 5),), {"axis": 1}),
    ("softmax_entropy", (normal(3, 5),), {"axis": 1}),
    ("softmax", (normal(3, 5),), {"axis": 1}),
    ("log_softmax", (normal(3, 5),), {"axis": 1}),
    ("logcumsumexp", (normal(3, 5),), {"axis": 1}),
    ("segment_logsumexp", (normal(8), torch.from_numpy(LABELS)), {}),
    ("logit_stats", (normal(3, 5),), {"parts": ("logsumexp", "entropy", "varentropy"), "temperatures": (0.5, 2.0)}),
    ("logit_stats", (normal(3, 5) + 9 * torch.eye(3, 5), ids(3, 1)), {"parts": ("max_prob", "entropy"), "top_k": 3}),
    ("logit_stats", (normal(3, 5), ids(3, 5)), {"parts": "logprob", "temperature": 0.5}),
    ("logit_stats", (normal(3, 5),), {"parts": ("collision", "max_logit", "expectation"), "expect": torch.arange(5)}),
    ("cross_entropy", (normal(4, 5), ids(4, 5)), {"label_smoothing": 0.1, "softcap": 2.0}),
    ("cross_entropy", (normal(4, 5), masses(20).reshape(4, 5)), {"reduction": "none"}),
    ("linear_logit_stats", (normal(4, 3), normal(5, 3), ids(4, 5)), {"parts": ("entropy", "logprob")}),
    ("linear_logit_stats", (normal(4, 3), normal(5, 3)), {"parts": "entropy", "bias": normal(5), "softcap": 1.5}),
    ("linear_cross_entropy", (normal(4, 3), normal(5, 3), ids(4, 5)), {"bias": normal(5), "label_smoothing": 0.1}),
    ("linear_cross_entropy", (normal(4, 3), normal(5, 3), ids(4, 5)), {"reduction": "none", "softcap": 2.0}),
    ("attention_entropy", (normal(2, 4, 3), normal(2, 6, 3)), {"causal": True}),
    ("divergence", (normal(3, 5), normal(3, 5)), {"kind": "js"}),
    ("divergence", (normal(3, 5), normal(3, 5)), {"kind": "renyi", "order": 0.4}),
    ("info_nce", (normal(4, 5),), {"temperature": 0.5}),
    ("donsker_varadhan", (normal(4), normal(6)), {}),
    ("nwj", (normal(4), normal(6)), {}),
    ("plackett_luce_nll", (normal(2, 4), torch.tensor([[2, 0, 1], [3, 1, 0]])), {}),
    ("entropy_change", (normal(3, 5), ids(3, 5)), {}),
    ("marginal_entropy", (normal(3, 5),), {}),
    ("row_entropy", (normal(3, 5),), {"kind": "tsallis", "order": 1.5}),
    ("semantic_entropy", (normal(6), torch.tensor([0, 1, 0, 2, 1, 0])), {}),
    ("soft_nearest_entropy", (normal(4, 4),), {}),
    ("sinkhorn", (normal(4, 5), masses(4), masses(5)), TIGHT),
    ("sinkhorn", (normal(4, 5),), {**TIGHT, "parts": ("value", "plan"), "a": masses(4)}),
    ("sinkhorn", ((normal(4, 2), normal(5, 2)),), TIGHT),
    ("sinkhorn_divergence", (normal(4, 2), normal(5, 2)), TIGHT),
    ("wasserstein_1d", (normal(6), normal(7)), {"p": 2}),
    ("sliced_wasserstein", (normal(6, 3), normal(7, 3)), {"rng": 0, "n_projections": 8}),
    ("bures_cost", (normal(2, 3), psd(2, 3), normal(3, 3), psd(3, 3)), {}),
    ("knn_entropy", (normal(12, 2),), {"k": 3}),
    ("knn_divergence", (normal(12, 2), normal(9, 2)), {"k": 2}),
    ("local_intrinsic_dimension", (normal(5, 3), normal(12, 3)), {"k": 6}),
    ("spacing_entropy", (normal(15, 2),), {}),
    ("matrix_entropy", (normal(2, 6, 4),), {}),
    ("von_neumann_entropy", (psd(2, 4),), {}),
    ("effective_rank", (normal(6, 4),), {}),
    ("truncated_matrix_entropy", (normal(6, 4),), {"k": 2}),
    ("participation_ratio", (normal(6, 4),), {}),
    ("stable_rank", (normal(6, 4),), {}),
    ("spectral_decay", (normal(6, 4),), {}),
    ("coding_rate", (normal(6, 4),), {}),
    ("coding_rate_reduction", (normal(8, 4),), {"labels": LABELS}),
    ("diffusion_spectral_entropy", (normal(8, 3),), {"sigma": 1.0, "t": [1, 2]}),
    ("diffusion_spectral_mutual_information", (normal(8, 3),), {"sigma": 1.0, "y": LABELS, "rng": 0}),
    ("diffusion_spectrum", (normal(8, 3),), {"sigma": 1.0, "count": 4}),
    ("matrix_renyi_entropy", (normal(8, 3), normal(8, 2)), {"sigma": 1.0}),
    ("matrix_mutual_information", (normal(8, 3), normal(8, 2)), {"sigma": 1.0}),
    ("cauchy_schwarz_divergence", (normal(8, 3), normal(7, 3)), {"sigma": 1.0}),
    ("cauchy_schwarz_mutual_information", (normal(8, 3), normal(8, 2)), {"sigma_x": 1.0, "sigma_y": 1.0}),
    ("cauchy_schwarz_conditional", (normal(8, 3), normal(8, 2), normal(8, 2)), {"sigma_x": 1.0, "sigma_y": 1.0}),
    ("kde_entropy", (normal(8, 3),), {"sigma": 1.0}),
    ("mixture_entropy", (normal(8, 3),), {"sigma": 1.0}),
]


@pytest.mark.parametrize(("name", "arrays", "options"), CASES, ids=[case[0] for case in CASES])
def test_gradients(name, arrays, options):
    flat = [x for array in arrays for x in (array if isinstance(array, tuple) else (array,))]
    named = [key for key, value in options.items() if isinstance(value, torch.Tensor) and value.is_floating_point()]
    rest = {key: value for key, value in options.items() if key not in named}

    def call(*tensors):
        found = iter(tensors)
        given = [tuple(next(found) for _ in x) if isinstance(x, tuple) else next(found) for x in arrays]
        if name in ("bures_cost", "von_neumann_entropy"):  # of symmetric matrices, which gradcheck's steps are not
            given = [(x + x.mT) / 2 if x.shape[-1] == x.shape[-2] else x for x in given]
        return getattr(functions, name)(*given, **rest, **dict(zip(named, found, strict=True)))

    inputs = [x.clone().requires_grad_(x.is_floating_point()) for x in [*flat, *(options[key] for key in named)]]
    if name == "sinkhorn" and any(x.ndim == 1 for x in inputs):
        return check_masses(call, inputs)
    assert torch.autograd.gradcheck(call, inputs, eps=1e-6, atol=1e-5, rtol=1e-4, fast_mode=False)


def check_masses(call, inputs):
    """Masses of one total on both sides cannot be moved one by one: their softmax can."""
    rows = [x.ndim == 1 for x in inputs]

    def of_logits(*tensors):
        return call(*[torch.softmax(x, 0) if mass else x for x, mass in zip(tensors, rows, strict=True)])

    logits = [x.detach().log().requires_grad_() if mass else x for x, mass in zip(inputs, rows, strict=True)]
    assert torch.autograd.gradcheck(of_logits, logits, eps=1e-6, atol=1e-5, rtol=1e-4)


def test_every_rule_is_checked():
    assert {case[0] for case in CASES} == {func.__name__ for func in rules()}
    assert dir(functions) == sorted({case[0] for case in CASES})


def test_values_and_types():
    x = normal(4, 6)
    value = functions.logsumexp(x.float(), axis=1)
    assert value.dtype == torch.float32
    assert not value.requires_grad
    torch.testing.assert_close(functions.logsumexp(x, axis=1), torch.logsumexp(x, 1))
    narrow = x.float().requires_grad_()
    entropy = functions.matrix_entropy(narrow)
    assert entropy.dtype == torch.float32
    entropy.backward()
    assert narrow.grad.dtype == torch.float32
    torch.testing.assert_close(
        narrow.grad.double(), torch.from_numpy(entropic.vjp(entropic.matrix_entropy, x.numpy())[1](1.0)[0]),
        rtol=1e-3, atol=1e-5,
    )  # fmt: skip
    half = x.bfloat16().requires_grad_()
    functions.softmax_entropy(half, axis=1).sum().backward()
    assert half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["knn_entropy", "knn_divergence", "local_intrinsic_dimension"])
def test_options_reach_the_function(name):
    """`metric` too, which is the pair's only where there is one."""
    x, y = normal(12, 3), normal(20, 3)
    arrays = (x,) if name == "knn_entropy" else (x, y)
    plain = [a.numpy() for a in arrays]
    for metric in ("euclidean", "manhattan", "chebyshev"):
        expected = getattr(entropic, name)(*plain, k=3, metric=metric)
        np.testing.assert_allclose(getattr(functions, name)(*arrays, k=3, metric=metric).numpy(), expected, rtol=1e-12)
    cloud = entropic.PointCloud(x.numpy(), y.numpy(), metric="euclidean")
    value = functions.sinkhorn((x, y), metric="euclidean", eps=0.5)
    assert value.item() == pytest.approx(entropic.sinkhorn(cloud, eps=0.5).value, rel=1e-9)


def test_in_a_network():
    """A layer that learns to fill more dimensions."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 8, dtype=torch.float64)
    data = torch.from_numpy(RNG.normal(size=(64, 8)) * np.linspace(0.1, 2, 8))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    ranks = []
    for _ in range(40):
        optimizer.zero_grad()
        rank = functions.effective_rank(layer(data), center=True)
        (-rank).backward()
        optimizer.step()
        ranks.append(rank.item())
    assert ranks[-1] > ranks[0] + 0.5


def test_what_is_refused():
    x = normal(3, 4).requires_grad_()
    with pytest.raises(AttributeError, match="has no attribute 'count_within'; there are attention_entropy"):
        functions.count_within  # noqa: B018
    with pytest.raises(ValueError, match="sinkhorn: `parts` must be of value"):
        functions.sinkhorn(x, eps=1.0, parts="potentials")
    with pytest.raises(ValueError, match="logsumexp: its value has no `parts` 'plan'"):
        functions.logsumexp(x, parts="plan")
    with pytest.raises(ValueError, match="logit_stats: its value has no `parts` 'value'"):
        functions.logit_stats(x)
    value = functions.logsumexp(x)
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        first.sum().backward()
