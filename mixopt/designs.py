"""Which mixtures to train: one function of (space, count, rng) for each design.

Every design stays within the user's bounds (epoch caps are left to the proposer), gives no mixture twice, is decided by
the generator, and only adds to the end when more are asked for, so that a search which grows from 64 to 128 proxies
keeps its first 64. What a design does not fill by itself is filled with `dirichlet`.

Shapes: D domains in the order of `space.names`, N mixtures or candidates, E places where predictions are wanted,
F domains whose bounds leave a choice.

Source: each function's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations
from typing import Literal

import numpy as np
from scipy.stats import qmc

from mixopt.errors import JobError, did_you_mean
from mixopt.laws import effective
from mixopt.mixture import FloatArray
from mixopt.space import REJECTIONS, SLACK, STRENGTHS, MixtureSpace
from mixopt.study import Study

Name = Literal["dirichlet", "regmix", "olmix", "one_hot", "leave_one_out", "sobol", "d_optimal", "i_optimal"]
Kernel = Callable[[FloatArray], FloatArray]
"""Candidates [N, D] -> prior covariance [N, N] of a metric at them, its variance around 1."""

USAGE = 15  # RegMix: most that a domain may have, in units of its prior
GRID = 2e-4  # RegMix: smallest proportion, and what proportions are multiples of
OLMIX_MINIMUM = 2e-3
SAME = 1e-9  # largest difference of mixtures that count as one
TOUCH = 1e-6  # what a one-hot mixture that bounds forbid has of the prior
CELLS = 1 << 13
DRAWS, EDGES, PLACES = 700, 300, 300
NOISE = 0.1  # of a run, in standard deviations of a metric; the effective-data law's own figure
PAIR = 4.0  # p_i p_j is at most 1/4


def mixtures(study: Study, rng: np.random.Generator, law: str = "effdata") -> FloatArray:
    """The mixtures [N, D] of a study's swarm by its own design; optimal designs are optimal for `law`."""
    return draw(study.design, study.space, study.count, rng, law)


def draw(name: str, space: MixtureSpace, count: int, rng: np.random.Generator, law: str = "effdata") -> FloatArray:
    """`count` different mixtures [N, D] by the design of this name. Raises JobError for an unknown name.

    A mixture that is there already, as in spaces with little room, gives way to a point of `sobol`.
    """
    if name not in DESIGNS:
        raise JobError(f"proxies.design: unknown design {name!r}; {did_you_mean(name, DESIGNS)}")
    filling, replacing = (np.random.default_rng(seed) for seed in rng.integers(1 << 63, size=2))
    design = partial(OPTIMAL[name], kernel=KERNELS.get(law, effective_data)) if name in OPTIMAL else DESIGNS[name]
    w_ND = design(space, count, rng)
    w_ND = np.vstack([w_ND, space.dirichlet(count - len(w_ND), filling)])
    again = [i for i in range(1, count) if np.abs(w_ND[:i] - w_ND[i]).max(axis=1).min() <= SAME]
    if again:
        w_ND[again] = sobol(space, count, replacing)[again]
    return w_ND


def regmix(space: MixtureSpace, count: int, rng: np.random.Generator) -> FloatArray:
    """Mixtures [N, D] drawn as RegMix draws them: mostly a few domains each.

    Dirichlet(s q), where q is proportional to the root of the prior and s, the concentration of all domains together,
    one of 15 strengths; nothing above 15 times the prior; multiples of 2e-4; no two within an L1 distance of 1e-5.

    Source: RegMix (arXiv:2407.01492), reference code `synthesize_mixture.py`. It draws a hundred times as many and
    keeps a random part; here each mixture is drawn until it is accepted, which has the same distribution.
    """
    base_D, upper_D = space.prior_D**0.5, np.minimum(space.bound_D, USAGE * space.prior_D)
    base_D = base_D / base_D.sum()

    def one(rng: np.random.Generator) -> FloatArray:
        w_D = _dirichlet(rng, rng.choice(STRENGTHS) * base_D)
        w_D = np.round(_zeroed(w_D, GRID) / GRID)
        return w_D / w_D.sum()

    def near(w_ND: FloatArray, w_D: FloatArray) -> bool:
        return bool((np.abs(w_ND - w_D).sum(axis=1) <= 1e-5).any())

    return _accepted(space, one, near, upper_D if upper_D.sum() > 1 else space.bound_D, count, rng)


def olmix(space: MixtureSpace, count: int, rng: np.random.Generator) -> FloatArray:
    """Mixtures [N, D] drawn as Olmix draws them: sources around their prior, topics around theirs within a source.

    Domains called `source:topic` are topics of one source. Both levels are Dirichlet(s q) with one of 15 strengths s
    and q the prior itself; a source under 0.002, and a topic under 0.002 of its source, becomes zero; no two mixtures
    within a Euclidean distance of 0.01.

    Source: Olmix (arXiv:2602.12237), reference code `synthesize_mixture.py`. The paper's ranges of strengths for dense
    sources and sparse topics are not in that code, whose range is [0.1, 5] for both, as here.
    """
    names = [name.partition(":")[0] for name in space.names]
    sources = list(dict.fromkeys(names))
    member_SD = np.array([[name == source for name in names] for source in sources])
    source_S, divided = member_SD @ space.prior_D, np.flatnonzero(member_SD.sum(axis=1) > 1)

    def one(rng: np.random.Generator) -> FloatArray:
        strength = rng.choice(STRENGTHS)
        w_D = _zeroed(_dirichlet(rng, strength * source_S), OLMIX_MINIMUM) @ member_SD
        for source in divided:
            mine_D = member_SD[source]
            topics = _dirichlet(rng, strength * space.prior_D[mine_D] / max(source_S[source], SAME))
            w_D[mine_D] *= _zeroed(topics, OLMIX_MINIMUM)
        return np.asarray(w_D)

    def near(w_ND: FloatArray, w_D: FloatArray) -> bool:
        return bool((((w_ND - w_D) ** 2).sum(axis=1) < 0.01**2).any())

    return _accepted(space, one, near, space.bound_D, count, rng)


def one_hot(space: MixtureSpace, count: int, rng: np.random.Generator) -> FloatArray:
    """Each domain alone, then the prior without each domain, as near to it as bounds allow.

    Source: single domains and all but one as in MoDoMoDo (arXiv:2505.24871); single ones alone are what Skill-It
    (arXiv:2307.14430) and MixMin (arXiv:2502.10510) train.
    """
    return np.vstack([_within(space, np.eye(len(space.names))), _without_each(space)])[:count]


def leave_one_out(space: MixtureSpace, count: int, rng: np.random.Generator) -> FloatArray:
    """The prior, then the prior without each domain: an ablation.

    Source: "Exclude-One" and "All" of MoDoMoDo (arXiv:2505.24871), whose base is uniform.
    """
    return np.vstack([_within(space, space.prior_D[None]), _without_each(space)])[:count]


def sobol(space: MixtureSpace, count: int, rng: np.random.Generator) -> FloatArray:
    """Points [N, D] that are evenly spread over the mixtures within the bounds, by volume.

    Uniform proportions within bounds that sum to 1 are independent uniform ones given their sum. So, domain by domain,
    a coordinate of a scrambled Sobol point goes through the inverse of

        P(p_j <= t | r left) = (G(r - lower_j) - G(r - t)) / (G(r - lower_j) - G(r - upper_j)),

    where G is the distribution function of the later domains' sum, tabulated by running integrals. No point is lost to
    the bounds. Where upper bounds are the tighter ones, what is missing to them is drawn instead.

    Source: Sobol 1967, scrambled as in Owen 1998 (`scipy.stats.qmc`); the conditional transform is Rosenblatt's (1952).
    """
    lower_D, total = space.lower_D, 1 - space.lower_D.sum()
    width_D = np.minimum(space.bound_D - lower_D, total)
    mirrored = width_D.sum() - total < total
    if mirrored:
        total = width_D.sum() - total
    free_F = np.flatnonzero(np.minimum(width_D, total) > SLACK)
    start_D = lower_D + width_D if mirrored else lower_D
    w_ND = np.repeat(start_D[None], count, axis=0)
    if len(free_F) > 1 and count:
        points = qmc.Sobol(len(free_F) - 1, seed=rng).random_base2(math.ceil(math.log2(count)))[:count]
        y_NF = total * _conditional(points, np.minimum(width_D[free_F] / total, 1.0))
        w_ND[:, free_F] += -y_NF if mirrored else y_NF
    return _within(space, np.maximum(w_ND, 0))


def d_optimal(space: MixtureSpace, count: int, rng: np.random.Generator, kernel: Kernel) -> FloatArray:
    """The candidates [N, D] that say most about a law's parameters: each has the largest prediction variance left.

    It adds log(1 + variance / noise^2) to the logarithm of the determinant of the parameters' information.

    Source: Wynn 1970, "The sequential generation of D-optimum experimental designs"; the law's prior as its start is
    Bayesian D-optimality, DuMouchel and Jones 1994, "A simple Bayesian modification of D-optimal designs".
    """
    w_ND, _ = candidates(space, rng)
    return w_ND[_greedy(kernel(w_ND), 0, count)]


def i_optimal(space: MixtureSpace, count: int, rng: np.random.Generator, kernel: Kernel) -> FloatArray:
    """The candidates [N, D] that leave the least prediction variance, averaged over mixtures that are allowed.

    Source: for mixtures Goos, Jones and Syafitri 2016, "I-optimal design of mixture experiments", and for pretraining
    arXiv:2608.23922, whose designs put their support at 0, 1/2 and 1; greedy instead of exchanges, so that it can grow.
    """
    w_ND, places_ED = candidates(space, rng)
    K_NN = kernel(np.vstack([w_ND, places_ED]))
    return w_ND[_greedy(K_NN, len(places_ED), count)]


def candidates(space: MixtureSpace, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Where an optimal design may look [N, D], and where its predictions are wanted [E, D].

    The first are corners, midpoints of edges (a part of them where there are many), the centre with and without each
    domain, the prior, and draws around it as dense as those of `dirichlet`; the second are such draws, moved to what the
    real run may follow.
    """
    domains, base_D = len(space.names), space.prior_D**0.5
    base_D = np.maximum(domains * base_D / base_D.sum(), SAME)
    corner_DD = np.eye(domains)
    pairs = np.array(list(combinations(range(domains), 2)))
    if len(pairs) > EDGES:
        pairs = pairs[np.sort(rng.choice(len(pairs), EDGES, replace=False))]
    edges_ND = (corner_DD[pairs[:, 0]] + corner_DD[pairs[:, 1]]) / 2
    centre_D = np.full((1, domains), 1 / domains)
    without_DD = (1 - corner_DD) / max(domains - 1, 1)
    drawn_ND = rng.standard_gamma(rng.choice(STRENGTHS, (DRAWS + PLACES, 1)) * base_D)
    drawn_ND = drawn_ND / drawn_ND.sum(axis=1, keepdims=True)
    shapes_ND = np.vstack([corner_DD, edges_ND, centre_D, without_DD, space.prior_D, drawn_ND[:DRAWS]])
    return _within(space, shapes_ND), space.project(drawn_ND[DRAWS:])


def first_order(w_ND: FloatArray) -> FloatArray:
    """Covariance [N, N] under the linear law, f = sum_j b_j p_j with b_j ~ N(0, 1): Scheffe's first-order polynomial."""
    return np.asarray(w_ND @ w_ND.T)


def second_order(w_ND: FloatArray) -> FloatArray:
    """Covariance [N, N] under the quadratic law, with b_ij ~ N(0, 4^2) for each p_i p_j, i < j."""
    linear_NN, square_ND = first_order(w_ND), w_ND**2
    return np.asarray(linear_NN + PAIR**2 * (linear_NN**2 - square_ND @ square_ND.T) / 2)


def effective_data(w_ND: FloatArray) -> FloatArray:
    """Covariance [N, N] under the effective-data law, linear in its parameters around the centre of their prior.

    The metric is one whose own domain is unknown, so that every domain counts alike; its level does not matter, and A
    is such that its standard deviation over the candidates is 1.
    """
    domains = w_ND.shape[1]
    kinds = [*effective.HEAD, *(kind for kind in effective.EACH for _ in range(domains))]
    centre_P, width_P = np.array(kinds).T
    centre_P[0] = centre_P[1] = 0
    above_N = effective.jacobian(centre_P[None], w_ND)[0, :, 0]  # by log A: A s^-alpha itself
    centre_P[0] -= math.log(max(float(above_N.std()), SAME))
    J_NP = effective.jacobian(centre_P[None], w_ND)[0] * width_P
    return np.asarray(J_NP @ J_NP.T)


def _greedy(K_NN: FloatArray, places: int, count: int) -> list[int]:
    """Candidates in the order of choice; the last `places` rows of K are no candidates but where variance should fall.

    With none of them, the candidate of the largest variance is next. A choice i lowers the covariance by
    k_i k_i' / (K_ii + noise^2), which is Sherman and Morrison's update of the parameters' information seen from the
    candidates, and so all sums over places by known amounts.
    """
    K_NN, chosen = K_NN.copy(), list[int]()
    free_N = np.ones(len(K_NN) - places, dtype=bool)
    for _ in range(min(count, len(free_N))):
        variance_N = K_NN.diagonal()[: len(free_N)]
        gain_N = variance_N
        if places:
            gain_N = np.square(K_NN[: len(free_N), len(free_N) :]).sum(axis=1) / (variance_N + NOISE**2)
        i = int(np.where(free_N, gain_N, -np.inf).argmax())
        free_N[i] = False
        chosen.append(i)
        K_NN -= np.outer(K_NN[i], K_NN[i] / (K_NN[i, i] + NOISE**2))
    return chosen


def _conditional(u_NF: FloatArray, width_F: FloatArray) -> FloatArray:
    """Points of the unit cube, one coordinate fewer than F, as points [N, F] of 0 <= y <= width that sum to 1."""
    grid_C, last = np.linspace(0, 1, CELLS + 1), len(width_F) - 1
    below = [np.clip(grid_C / width_F[last], 0, 1)]  # distribution functions of the sums of the last 1, 2, ... domains
    for width in width_F[last - 1 : 0 : -1]:
        density_C = below[-1] - np.interp(grid_C - width, grid_C, below[-1])
        sum_C = np.concatenate([[0.0], np.cumsum(density_C[1:] + density_C[:-1])])
        below.append(sum_C / sum_C[-1])
    most_F = np.append(np.cumsum(width_F[::-1])[::-1][1:], 0.0)
    left_N, y_NF = np.ones(len(u_NF)), np.empty((len(u_NF), last + 1))
    for j, G_C in enumerate(reversed(below)):
        high_N, low_N = (np.interp(x_N, grid_C, G_C) for x_N in (left_N, left_N - width_F[j]))
        later_N = np.interp(high_N - u_NF[:, j] * (high_N - low_N), G_C, grid_C)
        least_N = np.maximum(left_N - most_F[j], 0)
        y_NF[:, j] = np.clip(left_N - later_N, least_N, np.minimum(width_F[j], left_N))
        left_N = left_N - y_NF[:, j]
    y_NF[:, last] = left_N
    return y_NF


def _without_each(space: MixtureSpace) -> FloatArray:
    """The prior without each domain [D, D]; without the only one that it has, the others alike."""
    rest_DD = (1 - np.eye(len(space.names))) * np.maximum(space.prior_D, SAME)
    return _within(space, rest_DD / rest_DD.sum(axis=1, keepdims=True))


def _within(space: MixtureSpace, w_ND: FloatArray) -> FloatArray:
    """The rows [N, D], those outside the user's bounds moved inside; what a bound frees goes to the prior's domains."""
    outside_N = ((w_ND < space.lower_D - SLACK) | (w_ND > space.bound_D + SLACK)).any(axis=1)
    moved_ND = w_ND.copy()
    moved_ND[outside_N] = space.project(w_ND[outside_N] + TOUCH * space.prior_D, space.bound_D)
    return moved_ND


def _accepted(
    space: MixtureSpace,
    one: Callable[[np.random.Generator], FloatArray],
    near: Callable[[FloatArray, FloatArray], bool],
    upper_D: FloatArray,
    count: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Draws [N, D] within the bounds and not near an earlier one; after 200 rejections a draw is moved inside."""
    w_ND = np.empty((count, len(upper_D)))
    for i, child in enumerate(rng.spawn(count)):
        for _ in range(REJECTIONS):
            w_D = one(child)
            inside = (w_D <= upper_D + SLACK).all() and (w_D >= space.lower_D - SLACK).all()
            if inside and not near(w_ND[:i], w_D):
                break
        else:
            w_D = space.project(w_D, upper_D)
        w_ND[i] = w_D
    return w_ND


def _dirichlet(rng: np.random.Generator, concentration_D: FloatArray) -> FloatArray:
    return rng.dirichlet(np.maximum(concentration_D, 1e-9))


def _zeroed(w_D: FloatArray, least: float) -> FloatArray:
    """Proportions without those under `least`; all of them where none would be left."""
    kept_D = np.where(w_D < least, 0.0, w_D)
    return np.asarray(kept_D / kept_D.sum() if kept_D.sum() > 0 else w_D)


OPTIMAL: Mapping[str, Callable[..., FloatArray]] = {"d_optimal": d_optimal, "i_optimal": i_optimal}
KERNELS: Mapping[str, Kernel] = {
    "linear": first_order,
    "quadratic": second_order,
    "sparse_quadratic": second_order,
    "effdata": effective_data,
}
DESIGNS: Mapping[str, Callable[..., FloatArray]] = {
    "dirichlet": MixtureSpace.dirichlet,
    "regmix": regmix,
    "olmix": olmix,
    "one_hot": one_hot,
    "leave_one_out": leave_one_out,
    "sobol": sobol,
    **OPTIMAL,
}
