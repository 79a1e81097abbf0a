"""The demonstration: each family computes something on real data, beside a peer, and draws its part of a picture.

A family is a function of the data that returns its rows of the table and a function that draws on its axes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

import entropic

_ROUNDS = 5


@dataclass(frozen=True)
class Row:
    """One line of the table: what was computed, the answer in words, both times, and how far the two are apart."""

    what: str
    answer: str
    seconds: float
    peer: str
    peer_seconds: float
    difference: float


Drawing = Callable[[Any], None]


def _race(ours: Callable[[], Any], peer: Callable[[], Any]) -> tuple[Any, float, Any, float]:
    """Both results with their median times, taken in turns so that a busy machine is busy for both."""
    results = [ours(), peer()]
    times: list[list[float]] = [[], []]
    for _ in range(_ROUNDS):
        for i, f in enumerate((ours, peer)):
            start = time.perf_counter()
            results[i] = f()
            times[i].append(time.perf_counter() - start)
    return results[0], float(np.median(times[0])), results[1], float(np.median(times[1]))


def _largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.max(np.abs(a - b) / np.maximum(1.0, np.abs(b))))


def _logits_part(images: np.ndarray, labels: np.ndarray) -> tuple[list[Row], Drawing]:
    """A Parzen classifier: each image's log density under every other one's Gaussian, by class and in all."""
    from scipy import special

    n = len(images)
    squares = np.einsum("ij,ij->i", images, images)
    scores = -(squares[:, None] + squares[None, :] - 2 * images @ images.T) / (2 * 8.0**2)
    np.fill_diagonal(scores, -np.inf)  # leave each image out of its own density

    density, t, density_peer, t_peer = _race(
        lambda: entropic.logsumexp(scores, axis=1), lambda: special.logsumexp(scores, axis=1)
    )
    rows = [
        Row("log density of each image", f"mean {density.mean():.3f}", t, "scipy", t_peer,
            _largest_difference(density, density_peer))
    ]  # fmt: skip

    by_class, t, by_class_peer, t_peer = _race(
        lambda: entropic.segment_logsumexp(scores, labels, 10),
        lambda: np.stack([special.logsumexp(scores[labels == c], axis=0) for c in range(10)]),
    )
    accuracy = float((by_class.argmax(axis=0) == labels).mean())
    rows.append(
        Row("log density by class", f"{accuracy:.1%} of {n} digits right", t, "scipy, 10 calls", t_peer,
            _largest_difference(by_class, by_class_peer))
    )  # fmt: skip

    entropy, t, entropy_peer, t_peer = _race(
        lambda: entropic.softmax_entropy(scores, axis=1, base=2),
        lambda: special.entr(special.softmax(scores, axis=1)).sum(axis=1) / np.log(2),
    )
    rows.append(
        Row("entropy of each image's neighbours", f"mean {entropy.mean():.2f} bits", t, "scipy", t_peer,
            _largest_difference(entropy, entropy_peer))
    )  # fmt: skip

    doubt = entropic.softmax_entropy(by_class, axis=0, base=2)

    def draw(figure: Any) -> None:
        axes = figure.subplots(2, 6)
        for row, (order, title) in enumerate(((np.argsort(-doubt), "most in doubt"), (np.argsort(doubt), "least"))):
            for ax, i in zip(axes[row], order, strict=False):
                ax.imshow(images[i].reshape(8, 8), cmap="gray_r")
                ax.set_title(f"{labels[i]}, {doubt[i]:.1g} bit", fontsize=8)
                ax.set_axis_off()
            axes[row][0].text(-0.3, 0.5, title, transform=axes[row][0].transAxes, rotation=90, va="center", fontsize=8)
        figure.suptitle("Entropy of the class, by a Parzen classifier on scikit-learn's digits", fontsize=10)

    return rows, draw


def _tokens_part() -> tuple[list[Row], Drawing]:
    """A model of English: pairs of words counted in Python's manual; its doubt before each word of a page left out."""
    from pydoc_data.topics import topics

    from scipy import special

    pages = {title: re.findall(r"[a-z]+|[.,;:]", page.lower()) for title, page in topics.items()}
    vocabulary, ids = np.unique([word for page in pages.values() for word in page], return_inverse=True)
    tokens = dict(zip(pages, np.split(ids, np.cumsum([len(page) for page in pages.values()])[:-1]), strict=True))
    words, page = pages["booleans"], tokens.pop("booleans")

    pairs = np.zeros((len(vocabulary), len(vocabulary)))
    for read in tokens.values():
        np.add.at(pairs, (read[:-1], read[1:]), 1)
    single = pairs.sum(axis=0) + 1
    logits = np.log(pairs[page[:-1]] + 5 * single / single.sum()).astype(np.float32)  # a Dirichlet prior's mean
    log_2 = np.log(2)

    def by_scipy() -> tuple[np.ndarray, np.ndarray]:
        log_p = special.log_softmax(logits, axis=1)
        return -(np.exp(log_p) * log_p).sum(axis=1) / log_2, log_p[np.arange(len(log_p)), page[1:]] / log_2

    def by_ours() -> tuple[np.ndarray, np.ndarray]:
        stats = entropic.logit_stats(logits, page[1:], base=2)
        return stats.entropy, stats.logprob

    (entropy, logprob), t, peer, t_peer = _race(by_ours, by_scipy)
    rows = [
        Row("doubt before each word, surprise", f"{entropy.mean():.2f} and {-logprob.mean():.2f} bits", t, "scipy",
            t_peer, max(_largest_difference(entropy, peer[0]), _largest_difference(logprob, peer[1])))
    ]  # fmt: skip

    alone, t, alone_peer, t_peer = _race(
        lambda: entropic.marginal_entropy(logits, base=2),
        lambda: special.entr(special.softmax(logits, axis=1).mean(axis=0)).sum() / log_2,
    )
    rows.append(
        Row("without the word before", f"{alone:.2f} bits", t, "scipy", t_peer, _largest_difference(alone, alone_peer))
    )

    def draw(figure: Any) -> None:
        from matplotlib import colormaps

        ax, columns, line, column = figure.subplots(), 92, 0, 0
        for word, bits in zip(words[1:], entropy, strict=True):
            if column + len(word) > columns:
                line, column = line + 1, 0
            if line == 16:
                break
            shade = {"boxstyle": "square,pad=0.1", "lw": 0, "fc": colormaps["YlOrRd"](bits / 14)}
            ax.text(column / columns, 1 - line / 16, word, family="monospace", fontsize=7, va="top", bbox=shade)
            column += len(word) + 1
        ax.set_axis_off()
        figure.suptitle("Before which words a model of word pairs is in doubt: yellow 1 bit, red 10", fontsize=10)

    return rows, draw


def _transport_part() -> tuple[list[Row], Drawing]:
    """Colour transfer: the colours of one photograph, moved onto those of another by an entropic plan."""
    from scipy import special
    from sklearn.datasets import load_sample_images

    china, flower = (image[::3, ::3] / 255.0 for image in load_sample_images().images)
    rng = np.random.default_rng(0)
    x, y = (rng.permutation(image.reshape(-1, 3))[:400] for image in (china, flower))
    pixels, eps, tol = china.reshape(-1, 3), 0.01, 1e-6

    def log_kernel(points: np.ndarray) -> np.ndarray:
        scores: np.ndarray = -np.sum((points[:, None] - y) ** 2, axis=-1) / eps - np.log(len(y))
        return scores

    def plain_iterations() -> np.ndarray:
        scores, g, error = log_kernel(x), np.zeros(len(y)), 1.0
        while error > tol:
            f = -special.logsumexp(scores + g, axis=1)
            log_sums = special.logsumexp(scores + f[:, None], axis=0) + np.log(len(y) / len(x)) + g
            error = np.abs(np.exp(log_sums) - 1).mean()
            g = g - log_sums
        return np.asarray(g * eps)

    plan, t, g_peer, t_peer = _race(
        lambda: entropic.sinkhorn(entropic.PointCloud(x, y), eps=eps, tol=tol), plain_iterations
    )
    g, g_peer = plan.g - plan.g.mean(), g_peer - g_peer.mean()
    rows = [
        Row(f"entropic plan of {len(x)} x {len(y)} colours", f"cost {plan.transport_cost:.4f}", t, "scipy, plain loop",
            t_peer, _largest_difference(g, g_peer))
    ]  # fmt: skip

    moved, t, moved_peer, t_peer = _race(
        lambda: plan.map_at(pixels), lambda: special.softmax(log_kernel(pixels) + plan.g / eps, axis=1) @ y
    )
    rows.append(
        Row("colours of all pixels by its map", f"{len(pixels)} pixels", t, "scipy", t_peer,
            _largest_difference(moved, moved_peer))
    )  # fmt: skip

    def draw(figure: Any) -> None:
        shown = (china, "a photograph"), (flower, "colours wanted"), (moved.reshape(china.shape), "moved onto them")
        for ax, (image, title) in zip(figure.subplots(1, 3), shown, strict=True):
            ax.imshow(np.clip(image, 0, 1))
            ax.set_title(title, fontsize=8)
            ax.set_axis_off()
        figure.suptitle("Colour transfer by the map of an entropic plan", fontsize=10)

    return rows, draw


def _coupling_part(images: np.ndarray, labels: np.ndarray) -> tuple[list[Row], Drawing]:
    """The ink of two digits, summed over all their images, coupled pixel by pixel with little entropy."""
    ink = [images[labels == digit].sum(axis=0).astype(np.int64) for digit in (3, 8)]

    def published_loop() -> float:
        left = [ink[0] * ink[1].sum(), ink[1] * ink[0].sum()]  # one total
        masses = []
        while left[0].any():
            i, j = (int(side.argmax()) for side in left)
            masses.append(min(left[0][i], left[1][j]))
            left[0][i] -= masses[-1]
            left[1][j] -= masses[-1]
        share = np.array(masses) / np.sum(masses)
        return -float(np.sum(share * np.log2(share)))

    greedy, t, entropy_peer, t_peer = _race(
        lambda: entropic.minimum_entropy_coupling(*ink, method="greedy"), published_loop
    )
    coupling = entropic.minimum_entropy_coupling(*ink)
    rows = [
        Row("greedy coupling of two digits' ink", f"{greedy.entropy:.4f} bits", t, "numpy, a loop", t_peer,
            abs(greedy.entropy - entropy_peer))
    ]  # fmt: skip

    def draw(figure: Any) -> None:
        first, middle, last = figure.subplots(1, 3)
        for ax, mass, title in ((first, ink[0], "ink of all 3s"), (last, ink[1], "ink of all 8s")):
            ax.imshow(mass.reshape(8, 8), cmap="gray_r")
            ax.set_title(title, fontsize=8)
            ax.set_axis_off()
        middle.scatter(coupling.indices[:, 1], coupling.indices[:, 0], s=400 * coupling.mass, c="black")
        middle.set_title(f"{len(coupling.mass)} pairs of pixels", fontsize=8)
        middle.set_box_aspect(1)
        figure.suptitle(
            f"A coupling of {coupling.entropy:.4f} bits; none has less than {coupling.lower_bound:.4f}", fontsize=10
        )

    return rows, draw


def _neighbors_part(images: np.ndarray, labels: np.ndarray) -> tuple[list[Row], Drawing]:
    """Which pixels tell what digit an image shows, and how many dimensions the images have."""
    from sklearn.feature_selection import mutual_info_classif
    from sklearn.neighbors import NearestNeighbors

    def of_pixels() -> Any:
        return entropic.mutual_information_matrix(images, labels, discrete=True, discrete_y=True, base=2)

    pixels, t, pixels_peer, t_peer = _race(
        of_pixels, lambda: mutual_info_classif(images, labels, discrete_features=True) / np.log(2)
    )
    rows = [
        Row("information of each pixel", f"most {pixels.max():.2f} bits", t, "scikit-learn", t_peer,
            _largest_difference(pixels, pixels_peer))
    ]  # fmt: skip

    # ink in blocks of 2 by 2 pixels, turned by random angles: continuous features without ties
    blocks = images.reshape(-1, 4, 2, 4, 2).sum(axis=(2, 4)).reshape(-1, 16)
    features = blocks @ np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0]
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    turned, t, turned_peer, t_peer = _race(
        lambda: entropic.mutual_information_matrix(features, labels, discrete_y=True),
        lambda: mutual_info_classif(features, labels, random_state=0),
    )
    rows.append(
        Row("of 16 continuous features", f"mean {turned.mean() / np.log(2):.2f} bits", t, "scikit-learn", t_peer,
            _largest_difference(turned, turned_peer))
    )  # fmt: skip

    def two_neighbours() -> float:
        distances = np.sort(NearestNeighbors(n_neighbors=2, algorithm="brute").fit(images).kneighbors()[0], axis=1)
        logs = np.sort(np.log(distances[:, 1] / distances[:, 0]))[: int(len(images) * 0.9)]
        heights = -np.log1p(-np.arange(1, len(logs) + 1) / len(images))
        return float(logs @ heights / (logs @ logs))

    dimension, t, dimension_peer, t_peer = _race(
        lambda: entropic.intrinsic_dimension(images, method="twonn"), two_neighbours
    )
    rows.append(
        Row("intrinsic dimension of the images", f"{dimension:.1f} of 64", t, "scikit-learn", t_peer,
            abs(dimension - dimension_peer))
    )  # fmt: skip

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        for ax, values, title in ((left, images.mean(axis=0), "mean image"), (right, pixels, "bits about the digit")):
            shown = ax.imshow(values.reshape(8, 8), cmap="gray_r" if ax is left else "viridis")
            figure.colorbar(shown, ax=ax, fraction=0.046)
            ax.set_title(title, fontsize=8)
            ax.set_axis_off()
        figure.suptitle("What each pixel tells about the digit", fontsize=10)

    return rows, draw


def _spectral_part(images: np.ndarray) -> tuple[list[Row], Drawing]:
    """Diffusion spectral entropy of all digits, and of the digits under noise."""
    width = float(entropic.diffusion_spectral_entropy(images, sigma="median", t=8).sigma or 0)

    def all_eigenvalues() -> float:
        norms = (images**2).sum(axis=1)
        g = np.exp(-(norms[:, None] + norms - 2 * images @ images.T) / (2 * width**2))
        root = 1 / np.sqrt(g.sum(axis=1))
        q = np.linalg.eigvalsh(g * root[:, None] * root) ** 2
        return -float(np.sum(q / q.sum() * np.log2(q / q.sum(), where=q > 0, out=np.zeros_like(q))))

    bounded, t, entropy_peer, t_peer = _race(
        lambda: entropic.diffusion_spectral_entropy(images, sigma=width, t=2, tol=0.05), all_eigenvalues
    )
    rows = [
        Row("diffusion entropy, bounded", f"{bounded.lower:.3f} to {bounded.upper:.3f} bits", t, "numpy", t_peer,
            abs(bounded.value - entropy_peer))
    ]  # fmt: skip

    levels = np.linspace(0, 8, 9)
    noise = np.random.default_rng(0).normal(size=images.shape)
    curves = [
        entropic.diffusion_spectral_entropy(images + level * noise, sigma=width, t=[1, 2, 4], tol=0.1)
        for level in levels
    ]

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for i, power in enumerate((1, 2, 4)):
            lower, value, upper = (
                np.array([getattr(c, part)[i] for c in curves]) for part in ("lower", "value", "upper")
            )
            ax.fill_between(levels, lower, upper, alpha=0.3)
            ax.plot(levels, value, marker="o", ms=3, label=f"t = {power}")
        ax.set_xlabel("noise added to pixels of 0 to 16")
        ax.set_ylabel("bits, and their intervals")
        ax.legend(fontsize=8)
        figure.suptitle("Diffusion spectral entropy of 1,797 digits", fontsize=10)

    return rows, draw


def run_demo(output: str, stream: TextIO) -> int:
    """Compute, write the table to `stream` and the picture to `output`; returns the exit status."""
    try:
        import matplotlib
        import scipy  # noqa: F401
        from sklearn.datasets import load_digits
    except ImportError as missing:
        stream.write(f'entropic demo needs {missing.name}: python -m pip install "entropic[demo]"\n')
        return 1
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    images, labels = load_digits(return_X_y=True)
    parts = [
        _logits_part(images, labels),
        _tokens_part(),
        _transport_part(),
        _coupling_part(images, labels),
        _neighbors_part(images, labels),
        _spectral_part(images),
    ]

    config = entropic.show_config()
    stream.write(f"entropic {config['version']}, {config['isa_active']}, {config['threads']} threads\n\n")
    stream.write(f"{'computed':<36}{'answer':<28}{'time':>10}{'peer':>10}{'ratio':>8}  {'difference':<11}peer\n")
    for rows, _ in parts:
        for r in rows:
            stream.write(
                f"{r.what:<36}{r.answer:<28}{r.seconds * 1e3:>7.1f} ms{r.peer_seconds * 1e3:>7.1f} ms"
                f"{r.peer_seconds / r.seconds:>7.1f}x  {r.difference:<11.1e}{r.peer}\n"
            )
    figure = Figure(figsize=(8, 3 * len(parts)), dpi=120)
    for part, (_, draw) in zip(figure.subfigures(len(parts), 1, squeeze=False).flat, parts, strict=True):
        draw(part)
    figure.savefig(output)
    stream.write(f"\npicture: {output}\n")
    return 0
