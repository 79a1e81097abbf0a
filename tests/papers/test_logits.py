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


# ---- token statistics ------------------------------------------------------------------------------------------------


def test_steer(rng):
    """STEER, entropy change in RLVR.

    |(A / pi_old) p (1 - p) (log p + H)| of each token: the first-order change of entropy but for the other tokens' part.
    """
    logits, tokens, advantage = rng.normal(size=(6, 40)) * 2, rng.integers(0, 40, 6), rng.normal(size=6)
    stats = entropic.logit_stats(logits, tokens)
    p = np.exp(stats.logprob)
    old = p * np.exp(0.1 * rng.normal(size=6))
    omega = np.abs(advantage / old * p * -np.expm1(stats.logprob) * (stats.logprob + stats.entropy))
    q = softmax(logits)
    entropy = -(q * np.log(q)).sum(axis=1)
    picked = q[np.arange(6), tokens]
    np.testing.assert_allclose(omega, np.abs(advantage / old * picked * (1 - picked) * (np.log(picked) + entropy)))
    # the part that belongs to the token itself, of -(S_k - E_p[S]) with S_k alone
    alone = entropic.entropy_change(logits, tokens, step="logit")
    np.testing.assert_allclose(omega, np.abs(advantage / old * (1 - p) * alone), rtol=1e-12)


def test_entropy_mechanism(rng):
    """The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models (Clip-Cov, KL-Cov).

    cov_t = (log p_t - mean)(A_t - mean) over the tokens of a batch that are not padding.
    """
    logits, tokens, advantage = rng.normal(size=(4, 9, 50)), rng.integers(0, 50, (4, 9)), rng.normal(size=(4, 9))
    real = np.arange(9) < np.array([9, 5, 7, 3])[:, None]
    log_p = entropic.logit_stats(logits, tokens).logprob
    cov = (log_p - log_p[real].mean()) * (advantage - advantage[real].mean()) * real
    expected = np.cov(log_p[real], advantage[real], bias=True)[0, 1]
    np.testing.assert_allclose(cov[real].mean(), expected, rtol=1e-12)
    # Clip-Cov drops tokens from the gradient: their cotangent is 0
    kept = real & (cov < np.quantile(cov[real], 0.9))
    _, pullback = entropic.vjp(entropic.logit_stats, logits, tokens)
    grad = pullback({"logprob": -advantage * kept / kept.sum()})[0]
    assert (grad[~kept] == 0).all()
    assert (np.abs(grad[kept]).max(axis=-1) > 0).all()


def test_aent(rng):
    """AEnt, clamped entropy: the lowest share of logits dropped, the rest renormalised, LSE(z_A) - sum p_A z_A."""
    logits = rng.normal(size=(5, 100)) * 3
    stats = entropic.logit_stats(logits, drop_fraction=0.3)
    kept = np.sort(logits, axis=1)[:, 30:]
    p = softmax(kept)
    expected = np.log(np.exp(kept).sum(axis=1)) - (p * kept).sum(axis=1)
    np.testing.assert_allclose(stats.entropy, expected, rtol=1e-12)
    grad = entropic.vjp(entropic.logit_stats, logits, drop_fraction=0.3)[1]({"entropy": 1.0})[0]
    assert (grad[logits < kept[:, :1]] == 0).all()
    assert (grad[logits >= kept[:, :1]] != 0).all()


def test_entropy_change_of_a_policy_step(rng):
    """Entropy Dynamics in Reinforcement Fine-Tuning: dH = -e (S_k - E_p[S]), and E_p[S] in closed form."""
    logits, e = rng.normal(size=8), 1e-6
    p = softmax(logits)
    entropy = -(p * np.log(p)).sum()
    for k in range(8):
        step = e * (np.eye(8)[k] - p)
        moved = entropic.softmax_entropy(logits + step) - entropic.softmax_entropy(logits - step)
        np.testing.assert_allclose(moved / (2 * e), entropic.entropy_change(logits, k), atol=1e-8)
    stats = entropic.logit_stats(logits)
    discriminator = p * (entropy + np.log(p))
    np.testing.assert_allclose((p * discriminator).sum(), entropy * stats.collision + (p**2 * np.log(p)).sum())


def test_zero_shot_text_detection(rng):
    """Zero-Shot Statistical Tests for LLM-Generated Text: |mean NLL - mean H| is small where the model wrote the text."""
    logits = rng.normal(size=(4000, 60)) * 2
    p = softmax(logits)
    written = (np.cumsum(p, axis=1) > rng.random((4000, 1))).argmax(axis=1)
    stats = entropic.logit_stats(logits, written)
    bound = 4 * np.sqrt(stats.varentropy.sum()) / 4000  # four deviations of a mean of log p - E log p
    assert abs(-stats.logprob.mean() - stats.entropy.mean()) < bound
    foreign = entropic.logit_stats(logits, rng.integers(0, 60, 4000))
    assert -foreign.logprob.mean() - foreign.entropy.mean() > 20 * bound
    # cross-entropy of two models' rows, -sum p_B log p_A
    other = rng.normal(size=(4000, 60))
    crossed = entropic.cross_entropy(logits, softmax(other), reduction="none")
    expected = entropic.softmax_entropy(other) + entropic.divergence(other, logits)
    np.testing.assert_allclose(crossed, expected, rtol=1e-10)


def test_tre(rng):
    """TRE, entropy within the trust region: H over the top k or the nucleus, renormalised, times log V / log size."""
    logits = rng.normal(size=(6, 500)) * 3

    def rescaled(**options):
        stats = entropic.logit_stats(logits, **options)
        size = np.array([kept_count(row, **options) for row in logits])
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(size > 1, stats.entropy * np.log(500) / np.log(size), 0.0), stats

    def kept_count(row, top_k=None, top_p=1.0):
        p = np.sort(softmax(row))[::-1][:top_k]
        return 1 + int((np.cumsum(p / p.sum()) < top_p).sum()) if top_p < 1 else len(p)

    full, _ = rescaled(top_k=500)
    np.testing.assert_allclose(full, entropic.softmax_entropy(logits), rtol=1e-12)
    single, stats = rescaled(top_k=1)
    assert (single == 0).all()
    np.testing.assert_array_equal(stats.logsumexp, logits.max(axis=1))
    nucleus, _ = rescaled(top_p=0.9)
    for row, value in zip(logits, nucleus, strict=True):
        p = np.sort(softmax(row))[::-1][: kept_count(row, top_p=0.9)]
        p = p / p.sum()
        np.testing.assert_allclose(value, -(p * np.log(p)).sum() * np.log(500) / np.log(len(p)), rtol=1e-12)


def test_beyond_the_80_20_rule(rng):
    """Beyond the 80/20 Rule: the policy gradient of the fifth of tokens with the highest entropy."""
    logits = rng.normal(size=(20, 50, 32)) * rng.uniform(0.2, 4, size=(20, 50, 1))
    real = rng.random((20, 50)) < 0.8
    entropy = entropic.logit_stats(logits).entropy
    forking = real & (entropy >= np.quantile(entropy[real], 0.8))
    assert abs(forking.sum() - 0.2 * real.sum()) <= 1
    assert entropy[forking].min() > entropy[real & ~forking].max()


def test_aepo(rng):
    """AEPO, arbitrary entropy policy optimisation: the tempered policy p^(1/T), hotter below the target entropy."""
    logits = rng.normal(size=(30, 20)) * 2
    entropies = entropic.logit_stats(logits, temperatures=(0.8, 1.0, 1.2)).entropy
    assert (np.diff(entropies, axis=0) > 0).all()
    target = np.median(entropies[1])
    temperature = np.where(entropies[1] < target, 1.2, 0.8)
    moved = entropic.logit_stats(logits, temperature=temperature).entropy
    assert ((moved > entropies[1]) == (entropies[1] < target)).all()
    p = softmax(logits) ** (1 / temperature[:, None])
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(moved, -(p * np.log(p)).sum(axis=1), rtol=1e-12)


def test_tent_and_open_set(rng):
    """Tent, and open-set test-time adaptation: mean entropy of a batch, of rows that are as sure as the source model."""
    logits = rng.normal(size=(64, 10, 4, 4)) * 2  # classes on axis 1
    source = logits + 0.3 * rng.normal(size=logits.shape)
    stats, before = entropic.logit_stats(logits, axis=1), entropic.logit_stats(source, axis=1)
    sure = stats.max_prob >= before.max_prob
    _, pullback = entropic.vjp(entropic.logit_stats, logits, axis=1)
    grad = pullback({"entropy": sure / sure.sum()})[0]
    assert entropic.logit_stats(logits - 5 * grad, axis=1).entropy[sure].mean() < stats.entropy[sure].mean()
    np.testing.assert_array_equal(np.moveaxis(grad, 1, -1)[~sure], 0)


def test_source_free_segmentation(rng):
    """Source-free adaptation for segmentation, and RePRI: pixel entropy plus KL of the mean posterior to a prior."""
    logits, prior = rng.normal(size=(2, 5, 8, 8)) * 2, rng.dirichlet(np.full(5, 3.0))
    p = np.exp(entropic.log_softmax(logits, axis=1))
    mean = p.mean(axis=(0, 2, 3))
    information = entropic.marginal_entropy(logits, axis=1) - entropic.softmax_entropy(logits, axis=1).mean()
    expected = -(mean * np.log(mean)).sum() + (p * np.log(p)).sum(axis=1).mean()
    np.testing.assert_allclose(information, expected, rtol=1e-10)
    assert information > 0
    kl = entropic.divergence(np.log(mean), np.log(prior))
    np.testing.assert_allclose(kl, -entropic.marginal_entropy(logits, axis=1) - mean @ np.log(prior), rtol=1e-10)


# ---- losses ----------------------------------------------------------------------------------------------------------


def test_cut_your_losses(rng):
    """Cut Your Losses in Large-Vocabulary Language Models (CCE): loss and gradients without the logits, and its filter."""
    hidden, weight, tokens = rng.normal(size=(40, 16)), rng.normal(size=(300, 16)), rng.integers(0, 300, 40)
    tokens[3] = -100
    value, pullback = entropic.vjp(entropic.linear_cross_entropy, hidden, weight, tokens)
    logits, counted = hidden @ weight.T, tokens >= 0
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(value, -log_p[counted, tokens[counted]].mean(), rtol=1e-12)
    dense = np.exp(log_p) - (np.arange(300) == tokens[:, None])
    dense[~counted] = 0
    by_hidden, by_weight, _ = pullback(1.0)
    np.testing.assert_allclose(by_hidden, dense @ weight / 39, atol=1e-13)
    np.testing.assert_allclose(by_weight, dense.T @ hidden / 39, atol=1e-13)
    filtered = entropic.vjp(entropic.linear_cross_entropy, hidden, weight, tokens, filter_eps=2.0**-12)[1](1.0)
    np.testing.assert_allclose(filtered[0], by_hidden, atol=2.0**-12 * np.abs(weight).sum())
    # z-loss: lse^2 from the same statistics, differentiable
    stats, pull = entropic.vjp(entropic.linear_logit_stats, hidden, weight)
    by_z = pull({"logsumexp": 2 * stats.logsumexp / 40})[0]
    np.testing.assert_allclose(by_z, np.exp(log_p) * 2 * stats.logsumexp[:, None] / 40 @ weight, atol=1e-12)


def test_emo(rng):
    """EMO, earth mover distance optimisation: 1 - (E^T p).(E^T q) with rows of the head of length 1.

    For one-hot p it is the exact transport cost 1 - cos, and an upper bound otherwise.
    """
    hidden, head, token = rng.normal(size=(3, 6)), rng.normal(size=(12, 6)), np.array([1, 4, 7])
    unit = head / np.linalg.norm(head, axis=1, keepdims=True)
    closeness = unit @ unit.T
    distance = [
        1 - entropic.linear_logit_stats(hidden[i : i + 1], head, expect=closeness[token[i]]).expectation[0]
        for i in range(3)
    ]
    q = softmax(hidden @ head.T)
    np.testing.assert_allclose(distance, 1 - ((q @ unit) * unit[token]).sum(axis=1), rtol=1e-12)
    for i in range(3):
        exact = entropic.transport_exact(1 - closeness[[token[i]]], a=[1.0], b=q[i])
        np.testing.assert_allclose(distance[i], exact.value, rtol=1e-9)
    soft = rng.dirichlet(np.ones(12))
    exact = entropic.transport_exact(1 - closeness, a=soft, b=q[0]).value
    assert 1 - (soft @ unit) @ (q[0] @ unit) >= exact


def test_harmonic_loss(rng):
    """Harmonic loss: softmax over classes of -n log d(x, w_i), whatever the distance."""
    x, w, label, n = rng.normal(size=(5, 8)), rng.normal(size=(10, 8)), np.arange(5), 8.0
    for distance in (
        np.linalg.norm(x[:, None] - w[None], axis=-1),
        np.abs(x[:, None] - w[None]).sum(axis=-1),
        1 - (x @ w.T) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(w, axis=1),
    ):
        loss = entropic.cross_entropy(-n * np.log(distance), label, reduction="none")
        harmonic = distance**-n / (distance**-n).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(loss, -np.log(harmonic[np.arange(5), label]), rtol=1e-10)
    at_class = np.where(np.arange(10) == label[:, None], 0.0, distance)
    with np.errstate(divide="ignore"):
        scores = -n * np.log(np.maximum(at_class, 1e-30))
    assert (entropic.cross_entropy(scores, label, reduction="none") < 1e-100).all()


def test_comp_sum_losses(rng):
    """Comp-sum losses: ((1+u)^(1-t) - 1) / (1-t) with u = sum of exp(z_j - z_y) over j != y; t = 1 is log(1+u)."""
    logits, y = rng.normal(size=(6, 9)) * 2, rng.integers(0, 9, 6)
    surprise = -entropic.logit_stats(logits, y).logprob  # log(1 + u)
    u = np.exp(logits - logits[np.arange(6), y][:, None]).sum(axis=1) - 1

    def loss(t):
        return surprise if t == 1 else np.expm1((1 - t) * surprise) / (1 - t)

    for t in (0.5, 1.5, 2.0):
        np.testing.assert_allclose(loss(t), ((1 + u) ** (1 - t) - 1) / (1 - t), rtol=1e-10)
    np.testing.assert_allclose(loss(1 + 1e-8), loss(1), rtol=1e-6)
    np.testing.assert_allclose(loss(2.0), 1 - softmax(logits)[np.arange(6), y], rtol=1e-10)


def test_spherical_z_loss(rng):
    """Z-loss of the spherical family: log(1 + exp(a (b - (o_y - mu) / sigma))) / a, mean and deviation over classes."""
    a, b, outputs, y = 0.7, 1.2, rng.normal(size=(5, 1000)) * 3, rng.integers(0, 1000, 5)
    z = (outputs - outputs.mean(axis=1, keepdims=True)) / outputs.std(axis=1, keepdims=True)
    score = a * (b - z[np.arange(5), y])
    pair = np.stack([np.zeros(5), score], axis=1)
    np.testing.assert_allclose(entropic.logsumexp(pair, axis=1) / a, np.log1p(np.exp(score)) / a, rtol=1e-12)
    scaled = (7 * outputs + 3 - (7 * outputs + 3).mean(axis=1, keepdims=True)) / (7 * outputs).std(
        axis=1, keepdims=True
    )
    np.testing.assert_allclose(scaled, z, rtol=1e-9, atol=1e-12)


def test_mixce_and_dco(rng):
    """MixCE, and limiting confidence (DCO): losses of the target's probability alone, in the log domain."""
    logits, y = rng.normal(size=(4, 6, 20)) * 4, rng.integers(0, 20, (4, 6))
    log_q = entropic.logit_stats(logits, y).logprob
    weight = 0.3 + 0.7 * np.exp(log_q)
    _, pullback = entropic.vjp(entropic.logit_stats, logits, y)
    grad = pullback({"logprob": -weight / 24})[0]
    p = softmax(logits)
    np.testing.assert_allclose(grad, weight[..., None] / 24 * (p - (np.arange(20) == y[..., None])), atol=1e-13)
    # -log(1 - (1 - p)^N), with log(1 - p) from p in the log domain
    n, tiny = 16, -60.0
    exact = -np.log(n) - tiny  # (1 - p)^N = 1 - N p
    np.testing.assert_allclose(-np.log(-np.expm1(n * np.log1p(-np.exp(tiny)))), exact, rtol=1e-12)


def test_hl_gauss(rng):
    """Stop Regressing (HL-Gauss): cross-entropy to a histogram of a Gaussian around the value."""
    from scipy.stats import norm

    edges, values, sigma = np.linspace(-3, 3, 52), np.array([-2.9, 0.1, 1.7]), 0.09
    mass = np.diff(norm.cdf((edges - values[:, None]) / sigma), axis=1)
    target = mass / mass.sum(axis=1, keepdims=True)
    centers = (edges[1:] + edges[:-1]) / 2
    logits = rng.normal(size=(3, 51))
    excess = entropic.cross_entropy(logits, target, reduction="none") + np.where(
        target > 0, target * np.log(np.where(target > 0, target, 1)), 0
    ).sum(axis=1)
    np.testing.assert_allclose(excess, entropic.divergence(np.log(np.maximum(target, 1e-300)), logits), rtol=1e-10)
    logits = np.log(np.maximum(target, 1e-300))  # the loss is least here
    np.testing.assert_allclose(entropic.vjp(entropic.cross_entropy, logits, target)[1](1.0)[0], 0, atol=1e-15)
    learned = entropic.logit_stats(logits, expect=centers).expectation
    np.testing.assert_allclose(learned, values, atol=0.03)
    np.testing.assert_allclose(learned, softmax(logits) @ centers, rtol=1e-12)


def test_vae_for_collaborative_filtering(rng):
    """VAE for collaborative filtering: sum_i x_i log p_i of multi-hot rows; one-hot is cross-entropy."""
    logits, clicks = rng.normal(size=(5, 200)), (rng.random((5, 200)) < 0.05).astype(float)
    clicks[:, 0] = 1
    loss = entropic.cross_entropy(logits, clicks, reduction="none")
    np.testing.assert_allclose(loss, -(clicks * np.log(softmax(logits))).sum(axis=1), rtol=1e-12)
    one = np.eye(200)[[3, 5, 7, 9, 11]]
    np.testing.assert_allclose(
        entropic.cross_entropy(logits, one), entropic.cross_entropy(logits, [3, 5, 7, 9, 11]), rtol=1e-12
    )


# ---- attention -------------------------------------------------------------------------------------------------------


def test_entropy_guided_attention(rng):
    """Entropy-Guided Attention for Private LLMs: (H - theta_h log T)^2 outside a margin of 0.2 log T, per head."""
    heads, length = 4, 24
    q, k, theta = rng.normal(size=(2, heads, length, 8)), rng.normal(size=(2, heads, length, 8)), rng.random(heads)
    entropy, pullback = entropic.vjp(entropic.attention_entropy, q, k, causal=True)
    assert (entropy[..., 0] == 0).all()
    assert (entropy <= np.log(np.arange(1, length + 1)) + 1e-12).all()
    off = entropy - theta[:, None] * np.log(length)
    outside = np.abs(off) > 0.2 * np.log(length)
    loss = (off**2 * outside).mean()
    by_q, by_k = pullback(2 * off * outside / off.size)
    step = 0.5
    moved = entropic.attention_entropy(q - step * by_q, k - step * by_k, causal=True) - theta[:, None] * np.log(length)
    assert (moved**2 * (np.abs(moved) > 0.2 * np.log(length))).mean() < loss


def test_attention_entropy_collapse():
    """Stabilizing Transformer Training by Preventing Attention Entropy Collapse: the bound, and where it is attained.

    Score rows of norm at most s have H >= log(1 + (T-1) b) + s sqrt(T (T-1)) b / (1 + (T-1) b), b = exp(-s sqrt(T/(T-1))).
    """
    length, s = 50, 6.0
    b = np.exp(-s * np.sqrt(length / (length - 1)))
    bound = np.log1p((length - 1) * b) + s * np.sqrt(length * (length - 1)) * b / (1 + (length - 1) * b)
    worst = np.full(length, -s / np.sqrt(length * (length - 1)))
    worst[0] = s * np.sqrt((length - 1) / length)
    np.testing.assert_allclose(np.linalg.norm(worst), s)
    np.testing.assert_allclose(entropic.softmax_entropy(worst), bound, rtol=1e-12)
    by_keys = entropic.attention_entropy(np.ones((1, 1)), worst[:, None], scale=1.0)
    np.testing.assert_allclose(by_keys, bound, rtol=1e-12)
    random = np.random.default_rng(0).normal(size=(1000, length))
    random *= s / np.linalg.norm(random, axis=1, keepdims=True)
    assert (entropic.softmax_entropy(random) > bound).all()


def test_aem(rng):
    """AEM for whole-slide images: lambda sum a log a over a bag's attention, bags of any length at once."""
    lengths = np.array([3, 50, 17])
    q, k = rng.normal(size=(3, 1, 4)), rng.normal(size=(3, 50, 4))
    together = entropic.attention_entropy(q, k, lengths=lengths)[:, 0]
    alone = [entropic.attention_entropy(q[i], k[i, :n])[0] for i, n in enumerate(lengths)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


# ---- divergences and row entropies -----------------------------------------------------------------------------------


def test_icon(rng):
    """I-Con, one framework of representation learning: mean KL of neighbour distributions; SNE, and SimCLR as a case."""
    x, y, n = rng.normal(size=(30, 5)), rng.normal(size=(30, 2)), 30
    own = np.where(np.eye(n) > 0, -np.inf, 0.0)
    by_x = -((x[:, None] - x[None]) ** 2).sum(axis=-1) / 2 + own
    by_y = -np.log1p(((y[:, None] - y[None]) ** 2).sum(axis=-1)) + own  # Student-t neighbours
    p, q = softmax(by_x), softmax(by_y)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.where(p > 0, p * np.log(p / q), 0.0).sum(axis=1).mean()
    np.testing.assert_allclose(entropic.divergence(by_x, by_y).mean(), expected, rtol=1e-10)
    # one neighbour each: the KL is InfoNCE
    partner = np.roll(np.arange(n), 1)
    certain = np.where(np.arange(n) == partner[:, None], 0.0, -np.inf)
    np.testing.assert_allclose(entropic.divergence(certain, by_y).mean(), entropic.info_nce(by_y, partner), rtol=1e-10)
    debiased = np.log(0.9 * p + 0.1 / (n - 1)) + own
    assert entropic.divergence(debiased, by_y).mean() < expected


def test_rpg(rng):
    """RPG, regularised policy gradients: KL both ways, and the estimators k1, k2, k3 of it from samples of p."""
    p_logits, q_logits = rng.normal(size=8), rng.normal(size=8)
    p, q = softmax(p_logits), softmax(q_logits)
    log_r = entropic.log_softmax(q_logits) - entropic.log_softmax(p_logits)
    kl = entropic.divergence(p_logits, q_logits)
    np.testing.assert_allclose(p @ -log_r, kl, rtol=1e-12)  # k1
    np.testing.assert_allclose(p @ (np.expm1(log_r) - log_r), kl, rtol=1e-12)  # k3
    assert abs(p @ (log_r**2 / 2) - kl) > 0.01 * kl  # k2 is biased
    np.testing.assert_allclose(entropic.divergence(p_logits, q_logits, "reverse_kl"), q @ log_r, rtol=1e-12)
    # unnormalised: sum p log(p/q) + sum q - sum p of masses 2p and 3q
    unnormalised = 2 * (kl + np.log(2 / 3)) + 3 - 2
    np.testing.assert_allclose(unnormalised, (2 * p * np.log(2 * p / (3 * q))).sum() + 1, rtol=1e-12)


def test_transformed_teacher_matching(rng):
    """Transformed teacher matching: KL(p^g / sum p^g || q) with a power on the teacher alone; g = 1 is plain KL."""
    teacher, student = rng.normal(size=(4, 10)), rng.normal(size=(4, 10))
    p, q = softmax(teacher) ** 0.5, softmax(student)
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(entropic.divergence(0.5 * teacher, student), (p * np.log(p / q)).sum(axis=1), rtol=1e-10)


def test_differentiable_entropy(rng):
    """Differentiable entropy for geometry: H of the mean of soft assignments to centres; sharp ones give a histogram."""
    x, centers = rng.random((200, 2)), rng.random((12, 2))
    squares = ((x[:, None] - centers[None]) ** 2).sum(axis=-1)
    soft = entropic.marginal_entropy(-30 * squares)
    p = softmax(-30 * squares).mean(axis=0)
    np.testing.assert_allclose(soft, -(p * np.log(p)).sum(), rtol=1e-12)
    counts = np.bincount(squares.argmin(axis=1), minlength=12) / 200
    counts = counts[counts > 0]
    np.testing.assert_allclose(entropic.marginal_entropy(-1e9 * squares), -(counts * np.log(counts)).sum(), rtol=1e-9)
    grad = entropic.vjp(entropic.marginal_entropy, -30 * squares)[1](1.0)[0]
    by_x = (grad[:, :, None] * -60 * (x[:, None] - centers[None])).sum(axis=1)
    moved = ((x + 1e-4 * by_x)[:, None] - centers[None]) ** 2
    assert entropic.marginal_entropy(-30 * moved.sum(axis=-1)) > soft


def test_relative_uncertainty(rng):
    """Relative uncertainty (REL-U): p'Dp; D of ones but the diagonal is Gini's index, and Doctor its odds."""
    logits = rng.normal(size=(30, 6)) * 2
    p = softmax(logits)
    gini = entropic.row_entropy(logits, "quadratic")
    np.testing.assert_allclose(gini, np.einsum("ni,ij,nj->n", p, 1 - np.eye(6), p), rtol=1e-12)
    collision = entropic.logit_stats(logits).collision
    np.testing.assert_allclose(gini / collision, (1 - (p**2).sum(axis=1)) / (p**2).sum(axis=1), rtol=1e-11)
    sure = np.zeros((1, 6), np.float32)
    sure[0, 2] = 30
    np.testing.assert_allclose(entropic.row_entropy(sure, "quadratic"), 2 * 5 * np.exp(-30.0), rtol=1e-6)
    # a D that was learned: rows of p D are the expectations of its columns
    learned = np.abs(rng.normal(size=(6, 6)))
    by_column = np.stack([entropic.logit_stats(logits, expect=column).expectation for column in learned.T], axis=1)
    np.testing.assert_allclose((by_column * p).sum(axis=1), np.einsum("ni,ij,nj->n", p, learned, p), rtol=1e-11)


def test_single_positive_labels(rng):
    """Single positive labels: -log p on positives, -alpha h(p) on the unknown ones, from logits of 1e4 as well."""
    logits = rng.normal(size=(4, 9)) * 3
    p = 1 / (1 + np.exp(-logits))
    h = -(p * np.log(p) + (1 - p) * np.log1p(-p))
    np.testing.assert_allclose(entropic.row_entropy(logits, "binary"), h.sum(axis=1), rtol=1e-10)
    assert entropic.row_entropy(np.array([1e4, -1e4]), "binary") == 0
    pair = np.stack([np.zeros(9), -logits[0]], axis=1)
    np.testing.assert_allclose(entropic.logsumexp(pair, axis=1), -np.log(p[0]), rtol=1e-12)


def test_dynmole(rng):
    """DynMoLE: Tsallis entropy (1 - sum p^q) / (q - 1) of a router; q to 1 is Shannon's."""
    router = rng.normal(size=(50, 8))
    p = softmax(router)
    np.testing.assert_allclose(
        entropic.row_entropy(router, "tsallis", order=1.2), (1 - (p**1.2).sum(axis=1)) / 0.2, rtol=1e-10
    )
    near = entropic.row_entropy(router, "tsallis", order=1 + 1e-9)
    np.testing.assert_allclose(near, entropic.softmax_entropy(router), rtol=1e-8)
    soft = entropic.row_entropy(router, "tsallis", order=1.2) > 1.0
    kept = entropic.logit_stats(router[~soft], top_p=0.75)
    assert (kept.max_prob > p[~soft].max(axis=1)).all()


# ---- semantic entropy and bounds -------------------------------------------------------------------------------------


def test_semantic_uncertainty(rng):
    """Semantic Uncertainty: clusters' masses from sequence log-probabilities, by length, several questions at once."""
    log_p, tokens = -rng.gamma(20, 2, size=30), rng.integers(3, 30, 30)
    meaning, question = rng.integers(0, 4, 30), np.repeat(np.arange(3), 10)
    values = entropic.semantic_entropy(log_p, meaning, groups=question, lengths=tokens)
    for q in range(3):
        mine = question == q
        mass = np.bincount(meaning[mine], np.exp(log_p / tokens)[mine])
        p = mass[mass > 0] / mass.sum()
        np.testing.assert_allclose(values[q], -(p * np.log(p)).sum(), rtol=1e-12)
    sampled = entropic.semantic_entropy(log_p, meaning, kind="monte_carlo")
    mass = np.bincount(meaning, np.exp(log_p - log_p.max()))
    np.testing.assert_allclose(sampled, -np.log(mass / mass.sum())[meaning].mean(), rtol=1e-12)


def test_snne(rng):
    """SNNE, beyond semantic entropy: -(1/n) sum_i LSE_{j != i}(s_ij / tau), weighted by the answers' probabilities too."""
    vectors = rng.normal(size=(8, 5))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    s, tau, p = unit @ unit.T, 0.5, rng.dirichlet(np.ones(8))
    rows = np.array([np.log(np.exp(np.delete(s[i], i) / tau).sum()) for i in range(8)])
    np.testing.assert_allclose(entropic.soft_nearest_entropy(s, tau), -rows.mean(), rtol=1e-12)
    np.testing.assert_allclose(entropic.soft_nearest_entropy(s, tau, weights=p), -(p * rows).sum(), rtol=1e-12)
    # equal answers within a cluster, none between: the count entropy of clusters but for constants, as tau falls
    cluster = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    same = np.where(cluster[:, None] == cluster, 0.0, -1.0)
    sharp = entropic.soft_nearest_entropy(same, 1e-3, diagonal=True)
    counts = entropic.semantic_entropy(np.zeros(8), cluster, kind="count")
    np.testing.assert_allclose(sharp + np.log(8), counts, rtol=1e-10)


def test_inv_entropy(rng):
    """Inv-Entropy: -sum_i M_ii log M_ii with M = P_Y P_X of row-normalised similarities, many draws at once."""
    x, y = rng.normal(size=(20, 10, 6)), rng.normal(size=(20, 10, 6))

    def transition(z):
        u = z / np.linalg.norm(z, axis=-1, keepdims=True)
        return np.exp(entropic.log_softmax(np.log(np.abs(u @ np.swapaxes(u, 1, 2))), axis=-1))

    m = transition(y) @ transition(x)
    diagonal = np.diagonal(m, axis1=1, axis2=2)
    total = diagonal.sum(axis=1)
    # of unnormalised masses: total (H(normalised) - log total)
    value = total * (entropic.softmax_entropy(np.log(diagonal)) - np.log(total))
    np.testing.assert_allclose(value, -(diagonal * np.log(diagonal)).sum(axis=1), rtol=1e-10)


def test_mine(rng):
    """MINE: the Donsker-Varadhan bound climbs to a Gaussian's information; its gradient, with a running mean in logs."""
    r, n = 0.9, 4000
    x = rng.normal(size=n)
    y = r * x + np.sqrt(1 - r**2) * rng.normal(size=n)
    z = rng.permutation(y)
    exact = -0.5 * np.log1p(-(r**2))
    features = [np.stack([a * b, a**2 + b**2], axis=1) for a, b in ((x, y), (x, z))]
    w, log_mean = np.zeros(2), None
    for _ in range(3000):
        joint, product = (f @ w for f in features)
        _, pullback = entropic.vjp(entropic.donsker_varadhan, joint, product)
        by_joint, by_product = pullback(1.0)
        now = entropic.logmeanexp(product)
        # an exponential mean of E exp(T) with rate 0.1, in the log domain
        log_mean = now if log_mean is None else entropic.logsumexp(np.array([log_mean, now]), b=np.array([0.9, 0.1]))
        w += 0.05 * (features[0].T @ by_joint + features[1].T @ by_product * np.exp(now - log_mean))
    bound = entropic.donsker_varadhan(*(f @ w for f in features))
    np.testing.assert_allclose(bound, exact, atol=0.08)
    np.testing.assert_allclose(w, [r / (1 - r**2), -(r**2) / (2 * (1 - r**2))], rtol=0.25)


def test_soft_info_nce(rng):
    """Soft-InfoNCE: weights on the negatives; unit ones are InfoNCE, zero drops a pair."""
    s, w = rng.normal(size=(6, 6)), rng.random((6, 6))
    np.fill_diagonal(w, 1)
    loss = entropic.info_nce(s, log_weights=np.log(w), reduction="none")
    np.testing.assert_allclose(loss, -np.log(np.exp(np.diag(s)) / (w * np.exp(s)).sum(axis=1)), rtol=1e-12)
    np.testing.assert_array_equal(entropic.info_nce(s, log_weights=np.zeros(6)), entropic.info_nce(s))
    w[0, 3] = 0
    with np.errstate(divide="ignore"):
        dropped = entropic.info_nce(s[:1], log_weights=np.log(w[:1]))
    without = np.delete(s[:1], 3, axis=1)
    np.testing.assert_allclose(dropped, -np.log(np.exp(s[0, 0]) / (np.delete(w[0], 3) * np.exp(without[0])).sum()))


def test_mutual_information_maximization(rng):
    """On Mutual Information Maximization for Representation Learning: InfoNCE plus log K, and NWJ, of one critic."""
    f = rng.normal(size=(16, 16)) + 3 * np.eye(16)
    nce = np.log(16) - entropic.info_nce(f)
    np.testing.assert_allclose(nce, np.mean(np.diag(f) - np.log(np.exp(f).sum(axis=1))) + np.log(16), rtol=1e-12)
    off = f[~np.eye(16, dtype=bool)]
    np.testing.assert_allclose(
        entropic.nwj(np.diag(f), off), np.diag(f).mean() - np.exp(-1) * np.exp(off).mean(), rtol=1e-12
    )
    assert entropic.donsker_varadhan(np.diag(f), off) >= entropic.nwj(np.diag(f), off)
