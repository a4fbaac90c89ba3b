"""MixMin: the mixture whose ensemble of one proxy per domain gives held-out text the highest likelihood.

    min_p  - mean_x log sum_j p_j P_j(x)   over the space

P_j(x) is what the proxy of domain j gives to example x of the target, per token: exp of its mean log likelihood. The
ensemble stands for the proxy that would be trained on the mixture, which needs no other run. The objective is convex,
so that the optimum is exact, under all constraints of the real run and with a pull to the prior where wanted.

Shapes: X held-out examples, D domains.

Source: MixMin (arXiv:2502.10510), which takes at most 100 exponentiated gradient steps on the simplex; constraints, the
pull and exactness are ours.
"""

from __future__ import annotations

import numpy as np

from mixopt.errors import SwarmError
from mixopt.laws.base import Curve
from mixopt.mixture import FloatArray, Mixture
from mixopt.proposers import minimise
from mixopt.space import MixtureSpace


def mixmin(log_likelihood_XD: FloatArray, space: MixtureSpace, kl: float = 0.0) -> Mixture:
    """The best allowed mixture by mean log likelihoods per token of each example under each domain's proxy.

    Raises SwarmError for likelihoods that are not finite or not of these domains.
    """
    return Mixture.from_array(space.names, minimise(ensemble(log_likelihood_XD, len(space.names)), space, kl))


def ensemble(log_likelihood_XD: FloatArray, domains: int) -> Curve:
    """Mean negative log likelihood of the mixed proxies, in nats per token, with its derivatives."""
    log_likelihood_XD = np.asarray(log_likelihood_XD, dtype=float)
    if log_likelihood_XD.ndim != 2 or log_likelihood_XD.shape[1] != domains or not len(log_likelihood_XD):
        raise SwarmError(
            f"mixmin: log likelihoods of examples under {domains} domains' proxies are needed "
            f"(got shape {log_likelihood_XD.shape})."
        )
    if not np.isfinite(log_likelihood_XD).all():
        raise SwarmError("mixmin: a log likelihood is not finite. Leave those examples out or smooth the proxies.")
    largest_X1 = log_likelihood_XD.max(axis=1, keepdims=True)
    P_XD, level, examples = np.exp(log_likelihood_XD - largest_X1), float(largest_X1.mean()), len(log_likelihood_XD)

    def value(p_D: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        mixed_X = P_XD @ p_D
        share_XD = P_XD / mixed_X[:, None]
        return -float(np.log(mixed_X).mean()) - level, -share_XD.mean(axis=0), share_XD.T @ share_XD / examples

    return value
