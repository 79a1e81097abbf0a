"""The papers that couplings serve, each in the few lines that its reader would write."""

import numpy as np
import pytest
from reference import coupling as reference

import entropic


def shannon(p):
    p = np.asarray(p, float).ravel()
    return -float(np.sum(p[p > 0] * np.log2(p[p > 0])))


def test_minimum_entropy_coupling_with_bottleneck(rng):
    """Minimum Entropy Coupling with Bottleneck.

    max I(X; Y) over X - T - Y with H(T) <= R: the marginals hold, and I(X; Y) >= I(X; T) + I(T; Y) - R.
    """
    for n in (3, 16, 100):
        p, q = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(n // 2 + 1))
        before = -1.0
        for rate in np.linspace(0, shannon(p), 9):
            result = entropic.bottleneck_coupling(p, q, rate)
            joint = result.toarray()
            np.testing.assert_allclose(joint.sum(axis=1), p, atol=2e-16)
            np.testing.assert_allclose(joint.sum(axis=0), q, atol=2e-16)
            code = result.encoder.toarray()  # P(x, t)
            assert shannon(code.sum(axis=0)) <= rate + 1e-12
            decoder = result.decoder.toarray()  # P(t, y)
            np.testing.assert_allclose(joint, code @ (decoder / decoder.sum(axis=1, keepdims=True)), atol=1e-15)
            information = reference.mutual_information(joint)
            assert result.information == pytest.approx(information, abs=1e-11)
            both = reference.mutual_information(code) + reference.mutual_information(decoder)
            assert information >= both - shannon(code.sum(axis=0)) - 1e-11
            assert before - 0.3 < information <= rate + 1e-11
            before = information
        assert information == pytest.approx(entropic.minimum_entropy_coupling(p, q).mutual_information, abs=1e-9)


def test_published_search_of_the_bottleneck(rng):
    """Minimum Entropy Coupling with Bottleneck: merging is within h(second largest mass), moves use the rate up.

    For masses (.7, .2, .1), whose levels are 0, .469, .722, .881 and 1.157 bits, and for many random ones.
    """
    found = [entropic.bottleneck_encoder([7, 2, 1], rate, method="greedy") for rate in (0.3, 0.5, 0.7, 0.9, 1.1)]
    assert [code.information for code in found] == pytest.approx([0, 0.468996, 0.468996, 0.881291, 0.881291], abs=1e-6)
    for _ in range(200):
        p = np.sort(rng.dirichlet(np.ones(rng.integers(2, 40))))
        rate = shannon(p) * rng.random()
        greedy, moves = (entropic.bottleneck_encoder(p, rate, method=method) for method in ("greedy", "moves"))
        assert -1e-12 < rate - greedy.information <= shannon([p[-2], 1 - p[-2]]) + 1e-12
        assert greedy.information <= moves.information <= rate + 1e-12


def test_max_seeking_coupling_table(rng):
    """Minimum Entropy Coupling with Bottleneck: mean entropies of couplings of random pairs.

    The published order: independent far above the largest masses first, and a little less is possible. (Its alphabets
    are not said, so that its means, 5.44, 2.95 and 2.94 bits, are no test.)
    """
    p, q = rng.dirichlet(np.ones(10), (2, 100))
    independent = np.mean([shannon(np.outer(a, b)) for a, b in zip(p, q, strict=True)])
    greedy, best = (
        entropic.minimum_entropy_coupling_batch(p, q, method=method).entropy.mean()
        for method in ("greedy", "portfolio")
    )
    lowest = np.mean([max(shannon(a), shannon(b)) for a, b in zip(p, q, strict=True)])
    assert lowest < best < greedy < lowest + 0.6 < independent - 1.5


def test_markov_coding_game(rng):
    """Communicating via Markov Decision Processes: messages in the actions of a policy that stays what it was.

    Messages of three letters go through a walk on a ring; the receiver reads them from the actions, and the actions'
    distribution is that of the policy.
    """

    def policy(actions):
        place = sum(1 if a == 1 else -1 if a == 2 else 0 for a in actions) % 5
        return (
            None
            if len(actions) == 24
            else np.exp(np.cos(place + np.arange(3))) / np.exp(np.cos(place + np.arange(3))).sum()
        )

    coupling = entropic.IterativeCoupling(np.full((3, 26), 1 / 26), policy)
    played = [coupling.sample(seed) for seed in range(200)]
    assert np.mean([coupling.decode(y) == x for x, y in played]) > 0.95
    first = np.bincount([y[0] for _, y in played], minlength=3)
    assert np.abs(first / 200 - policy(())).max() < 0.12
    x, y = played[0]
    assert coupling.log_likelihood(x, y) <= np.log2(26.0**-3) + 1e-12


def test_perfectly_secure_steganography(rng):
    """Perfectly Secure Steganography Using Minimum Entropy Coupling: a key's stream of bits in sampled words.

    The text's distribution given any ciphertext that is uniform is the model's: sum_x P(x) P(y | x) = P(y).
    """
    model = rng.dirichlet(np.full(6, 0.5), 3)
    coupling = entropic.IterativeCoupling(np.full((3, 2), 0.5), lambda y: model[len(y)] if len(y) < 3 else None)
    messages = list(np.ndindex(2, 2, 2))
    for y in [(0, 0, 0), (1, 2, 3), (5, 4, 3), (2, 2, 5)]:
        total = entropic.logsumexp([coupling.log_likelihood(x, y, base=None) for x in messages])
        chance = np.log(model[[0, 1, 2], list(y)]).sum()
        assert total == pytest.approx(chance, rel=1e-12)


def test_entropic_causal_inference(rng):
    """Entropic Causal Inference: 100 states with two equally likely children each; the true direction in 95 % of cases."""
    right = 0
    for _ in range(40):
        joint = np.zeros((100, 100))
        for x, mass in enumerate(rng.dirichlet(np.ones(100))):
            joint[x, rng.choice(100, 2, replace=False)] = mass / 2
        right += entropic.entropic_direction(joint).direction == "x->y"
    assert right >= 38
