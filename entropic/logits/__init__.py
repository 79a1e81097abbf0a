"""Log-sum-exp and its family: one pass over the data, no temporaries of its size, nothing that cancels.

Everything here rests on one state of a set of numbers x: its maximum m, r = sum exp(x - m) and
t = sum exp(x - m) (m - x), both over all elements but one maximal one. Then logsumexp = m + log1p(r) and the entropy of
softmax(x) is log1p(r) + t / (1 + r): sums of non-negative terms. States merge, so data can come in chunks. Statistics
of tokens rest on a longer state of the same kind (:func:`logit_stats`), and the losses, the attention entropy and the
linear functions on those, tile by tile.

Where these functions depart from SciPy's on purpose: an empty reduction gives -inf for arrays of any shape, with
sign 0; float16 and bfloat16 are summed wide; an empty softmax is an empty array; masked and sparse arrays are refused;
`keepdims` of a scalar gives a scalar.
"""

from . import _rules, _token_rules  # noqa: F401  (they register the gradients)
from ._attention import attention_entropy
from ._contrast import donsker_varadhan, info_nce, nwj, plackett_luce_nll
from ._cross_entropy import cross_entropy
from ._divergence import divergence
from ._entropies import entropy_change, marginal_entropy, row_entropy
from ._functions import (
    log_softmax,
    logcumsumexp,
    logmeanexp,
    logsumexp,
    segment_logsumexp,
    softmax,
    softmax_entropy,
)
from ._linear import linear_cross_entropy, linear_logit_stats
from ._semantic import semantic_entropy, soft_nearest_entropy
from ._stream import LogSumExp
from ._tokens import LogitStats, logit_stats

__all__ = [
    "LogSumExp",
    "LogitStats",
    "attention_entropy",
    "cross_entropy",
    "divergence",
    "donsker_varadhan",
    "entropy_change",
    "info_nce",
    "linear_cross_entropy",
    "linear_logit_stats",
    "log_softmax",
    "logcumsumexp",
    "logit_stats",
    "logmeanexp",
    "logsumexp",
    "marginal_entropy",
    "nwj",
    "plackett_luce_nll",
    "row_entropy",
    "segment_logsumexp",
    "semantic_entropy",
    "soft_nearest_entropy",
    "softmax",
    "softmax_entropy",
]
