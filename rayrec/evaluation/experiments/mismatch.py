"""Whether the arms have the shares of users that they should have. If not, something loses users, and no gain means anything.

Fabijan et al., "Diagnosing Sample Ratio Mismatch in Online Controlled Experiments", KDD 2019.
"""

import numpy as np
from scipy.special import gammaln
from scipy.stats import chi2

STRENGTH = 100.0  # of the shares that the evidence averages over: they are about as near to the expected ones as those of 100 users


def mismatch_p_value(counts: np.ndarray, shares: np.ndarray) -> float:
    """Of users [arms] where shares [arms] were expected: Pearson's chi-squared test, for a single look."""
    counts, expected = _checked(counts, shares)
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), len(counts) - 1))


def mismatch_log_evidence(counts: np.ndarray, shares: np.ndarray, strength: float = STRENGTH) -> float:
    """The logarithm of the evidence that the shares are others, after users [arms] who came in any order.

    The probability of the users under shares drawn from a Dirichlet distribution around the expected ones, divided by that under
    the expected ones. It exceeds 1 / alpha at any time with a probability of at most alpha, so it may be looked at after every
    user (Lindon and Malek, "Anytime-Valid Inference for Multinomial Count Data", NeurIPS 2022). A weak distribution, of a small
    `strength`, finds large differences among few users, and needs more of them for small ones.
    """
    counts, expected = _checked(counts, shares)
    shares = expected / max(counts.sum(), 1) if counts.sum() else np.asarray(shares) / np.sum(shares)
    prior = strength * shares
    drawn = gammaln(prior.sum()) - gammaln(prior.sum() + counts.sum()) + (gammaln(prior + counts) - gammaln(prior)).sum()
    return float(drawn - (counts * np.log(shares)).sum())


def _checked(counts: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The counts, and those that were expected. Raises `ValueError` for shares that are none."""
    counts, shares = np.asarray(counts, float), np.asarray(shares, float)
    if counts.shape != shares.shape or not (shares > 0).all() or len(shares) < 2:
        raise ValueError(f"{len(counts)} arms have the shares {shares.tolist()}; each of two or more arms needs one above 0")
    return counts, counts.sum() * shares / shares.sum()
