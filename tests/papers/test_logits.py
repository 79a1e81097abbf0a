"""The papers that the log-sum family serves, each in the few lines that its reader would write."""

import numpy as np

import entropic


def softmax(z, axis=-1):
    e = np.exp(z - z.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def test_pld(rng):
    """PLD, a Plackett-Luce loss for distillation.

    sum_k a_k (LSE over l >= k of s_pi(l) - s_pi(k)), a = softmax of the teacher in the order pi.
    """
    student, teacher, label = rng.normal(size=50) * 5, rng.normal(size=50), 17
    order = np.argsort(-teacher)
    order = np.concatenate([[label], order[order != label]])
    s = student[order]
    loss = entropic.softmax(teacher[order]) @ (entropic.logcumsumexp(s, reverse=True) - s)

    tails = np.array([np.log(np.sum(np.exp(s[k:]))) for k in range(50)])
    np.testing.assert_allclose(loss, softmax(teacher[order]) @ (tails - s), rtol=1e-12)
    shifted = entropic.softmax(teacher[order]) @ (entropic.logcumsumexp(s + 64, reverse=True) - s - 64)
    np.testing.assert_allclose(shifted, loss, rtol=1e-12)


def test_multi_instance_auc(rng):
    """Provable Multi-instance Deep AUC Maximization with Stochastic Pooling.

    Pooled score of a bag, tau log mean exp(phi / tau), for ragged bags at once and as a stream of batches.
    """
    tau, bags, phi = 0.3, np.sort(rng.integers(0, 6, 500)), rng.normal(size=500)
    pooled = tau * (entropic.segment_logsumexp(phi / tau, bags) - np.log(np.bincount(bags)))
    for bag in range(6):
        mine = phi[bags == bag]
        np.testing.assert_allclose(pooled[bag], tau * entropic.logmeanexp(mine / tau), rtol=1e-12)
        np.testing.assert_allclose(pooled[bag], tau * np.log(np.mean(np.exp(mine / tau))), rtol=1e-12)
    state = entropic.LogSumExp()
    for batch in np.array_split(phi[bags == 2] / tau, 7):
        state.update(batch)
    np.testing.assert_allclose(tau * (state.logsumexp - np.log(state.count)), pooled[2], rtol=1e-12)


def test_entropy_regularized_process_reward(rng):
    """Entropy-Regularized Process Reward Model.

    (LSE(eta r) - log n) / eta: small eta is the mean, large the maximum.
    """
    r = rng.random((20, 16))

    def aggregate(eta):
        return entropic.logmeanexp(eta * r, axis=1) / eta

    np.testing.assert_allclose(aggregate(2.0), np.log(np.mean(np.exp(2 * r), axis=1)) / 2, rtol=1e-12)
    np.testing.assert_allclose(aggregate(1e-7), r.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(aggregate(1e6), r.max(axis=1), atol=1e-5)


def test_haepo(rng):
    """HAEPO, History-Aggregated Exploratory Policy Optimization.

    w = softmax over trajectories of the summed log-probabilities; sum w R + beta H(w).
    """
    tokens, trajectory, rewards = -rng.random(300), np.repeat(np.arange(10), 30), rng.normal(size=10)
    log_pi = np.bincount(trajectory, tokens)
    objective = entropic.softmax(log_pi) @ rewards + 0.1 * entropic.softmax_entropy(log_pi)
    w = softmax(log_pi)
    np.testing.assert_allclose(objective, w @ rewards - 0.1 * np.sum(w * np.log(w)), rtol=1e-12)


def test_differential_information(rng):
    """Differential Information Distribution.

    Self-normalised pi / pi_ref, its entropy and effective sample size.
    """
    log_ratio = rng.normal(size=400) * 8
    entropy = entropic.softmax_entropy(log_ratio)
    effective = np.exp(2 * entropic.logsumexp(log_ratio) - entropic.logsumexp(2 * log_ratio))
    w = softmax(log_ratio)
    np.testing.assert_allclose(entropy, -np.sum(w * np.log(w)), rtol=1e-12)
    np.testing.assert_allclose(effective, 1 / np.sum(w**2), rtol=1e-12)
    np.testing.assert_allclose(entropic.softmax_entropy(np.full(400, 3.0)), np.log(400), rtol=1e-15)


def test_label_distributionally_robust(rng):
    """Label Distributionally Robust Losses.

    lam log mean_k exp((z_k - z_y + c [k != y]) / lam), lam for each row.
    """
    z, y, lam = rng.normal(size=(30, 9)) * 4, rng.integers(0, 9, 30), 0.2 + rng.random((30, 1))
    margins = z - z[np.arange(30), y][:, None] + (np.arange(9) != y[:, None])
    loss = lam[:, 0] * entropic.logmeanexp(margins / lam, axis=1)
    # the dual: max over p of <p, margins> - lam KL(p || uniform), reached at p = softmax(margins / lam)
    p = entropic.softmax(margins / lam, axis=1)
    kl = np.log(9) - entropic.softmax_entropy(margins / lam, axis=1)
    np.testing.assert_allclose(loss, (p * margins).sum(axis=1) - lam[:, 0] * kl, rtol=1e-10, atol=1e-12)


def test_entropy_minimization(rng):
    """The Unreasonable Effectiveness of Entropy Minimization.

    Steps on the logits until the entropy is at the floor.
    """
    z, floor = rng.normal(size=(4, 1000)) * 2, 2.0
    entropy = entropic.softmax_entropy(z)
    for _ in range(2000):
        value, pullback = entropic.vjp(entropic.softmax_entropy, z)
        assert np.all(value <= entropy + 1e-12)
        entropy = value
        if entropy.max() <= floor:
            break
        (gradient,) = pullback((entropy > floor).astype(float))
        z -= 2.0 * gradient
    assert entropy.max() <= floor


def test_entropy_dynamics(rng):
    """Entropy Dynamics.

    A bump e of logit k changes H by -e p_k (H + log p_k), to first order.
    """
    z = rng.normal(size=40) * 2
    (gradient,) = entropic.vjp(entropic.softmax_entropy, z)[1](1.0)
    p, h = entropic.softmax(z), entropic.softmax_entropy(z)
    np.testing.assert_allclose(gradient, -p * (h + entropic.log_softmax(z)), rtol=1e-10, atol=1e-14)
