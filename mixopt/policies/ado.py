"""ADO: a power law of each domain's training loss, refitted as the run goes on; train on what is still falling fast.

    L_k(n) = eps_k + beta_k n^-alpha_k                        fitted to the smoothed losses so far
    slope_k = alpha_k (L_k - eps_k) / n                       how fast L_k falls, tokens of any domain counting
    rho_k ~ mu_k h_k^s slope_k                                h: what k had of late, mu: the prior
    pi = (1 - share) pibar + share rho,  no proportion below `minimum`;  pibar <- mean of all rho so far

n is the part of the run that was trained: a unit of n changes beta alone. Until a law can be fitted, rho is mu.

Shapes: D domains, T rounds, A exponents on the grid.

Source: Jiang et al. 2024, Adaptive Data Optimization (arXiv:2410.11820), and its reference code; docs/differences.md says
how we differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixopt.errors import JobError
from mixopt.mixture import FloatArray, Mixture, Segment
from mixopt.policy import Feedback, Signal, Train, beginning, knobs, tuples

STEEPEST, GRID = 0.8, 40  # largest exponent, and how many are tried at a time
DELTA = 1e-3  # of Huber's loss, in nats of log loss
REWEIGHTINGS = 8
FIRST = 5  # losses of a domain before its law is fitted
WINDOW, DEGREE = 7, 3  # of the smoothing, in rounds
TINY = 1e-300


def preference(mu_D: FloatArray, h_D: FloatArray, slope_D: FloatArray, s: float) -> FloatArray:
    """The mixture rho [D]; mu where no loss falls."""
    weight_D = mu_D * h_D**s * slope_D
    return weight_D / weight_D.sum() if weight_D.sum() > 0 else mu_D


def blend(mean_D: FloatArray, rho_D: FloatArray, share: float) -> FloatArray:
    """The mixture pi [D] before the minimum."""
    return (1 - share) * mean_D + share * rho_D


def lifted(pi_D: FloatArray, minimum: float) -> FloatArray:
    """Proportions [D] under the minimum raised to it, the others scaled to what is left."""
    low_D = np.zeros(len(pi_D), dtype=bool)
    while (pi_D[~low_D] < minimum).any():
        low_D |= pi_D < minimum
        pi_D = np.where(low_D, minimum, pi_D * (1 - minimum * low_D.sum()) / pi_D[~low_D].sum())
    return pi_D


def slope(law: tuple[float, float, float], n: float) -> float:
    """How fast the loss falls, alpha (L - eps) / n, where the law (eps, beta, alpha) says that L is."""
    _, beta, alpha = law
    return alpha * beta * n**-alpha / n


def fit(points_T2: FloatArray, floor: float) -> tuple[float, float, float]:
    """(eps, beta, alpha) with the smallest Huber loss of the log losses, over rows (n, loss).

    For each alpha of a grid, and then of a finer one, eps and beta follow from reweighted least squares.
    """
    n_T, y_T = points_T2[:, 0], smoothed(points_T2[:, 1])
    alphas_A, found = np.linspace(STEEPEST / GRID, STEEPEST, GRID), (0.0, 0.0, 0.0)
    for _ in range(2):
        x_AT, weight_AT = n_T ** -alphas_A[:, None], np.ones((GRID, len(n_T)))
        for _ in range(REWEIGHTINGS):
            eps_A, beta_A = _line(x_AT, y_T, weight_AT / y_T**2, floor)
            r_AT = np.abs(np.log((eps_A[:, None] + beta_A[:, None] * x_AT) / y_T))
            weight_AT = DELTA / np.maximum(r_AT, DELTA)
        best = int(np.where(r_AT < DELTA, r_AT**2 / 2, DELTA * (r_AT - DELTA / 2)).sum(axis=1).argmin())
        found = float(eps_A[best]), float(beta_A[best]), float(alphas_A[best])
        step = alphas_A[1] - alphas_A[0]
        alphas_A = np.linspace(max(step / GRID, found[2] - step), min(STEEPEST, found[2] + step), GRID)
    return found


def smoothed(y_T: FloatArray) -> FloatArray:
    """Losses [T] on the polynomials that fit the windows around them (Savitzky and Golay); ends lie on the last window's."""
    count = len(y_T)
    if count < WINDOW:
        return y_T
    powers = np.vander(np.arange(WINDOW), DEGREE + 1).astype(float)
    fit_WW = powers @ np.linalg.pinv(powers)  # a window's values to its polynomial's
    first_T = np.clip(np.arange(count) - WINDOW // 2, 0, count - WINDOW)
    rows_TW = np.lib.stride_tricks.sliding_window_view(y_T, WINDOW)[first_T]
    return np.asarray((fit_WW[np.arange(count) - first_T] * rows_TW).sum(axis=1))


def _line(x_AT: FloatArray, y_T: FloatArray, w_AT: FloatArray, floor: float) -> tuple[FloatArray, FloatArray]:
    """Both eps and beta [A] of y ~ eps + beta x by weighted least squares, eps between the floor and the lowest loss."""
    sum_A, x_A, y_A = w_AT.sum(axis=1), (w_AT * x_AT).sum(axis=1), (w_AT * y_T).sum(axis=1)
    xx_A, xy_A = (w_AT * x_AT**2).sum(axis=1), (w_AT * x_AT * y_T).sum(axis=1)
    eps_A = (xx_A * y_A - x_A * xy_A) / np.maximum(sum_A * xx_A - x_A**2, TINY)
    eps_A = np.clip(eps_A, floor * y_T.min(), y_T.min())
    return eps_A, np.maximum(xy_A - eps_A * x_A, 0) / xx_A


@dataclass(frozen=True)
class State:
    """`losses` holds (middle of the round as a part of the run, loss) for each domain; `prior` mu, `recent` h, `mean` pibar."""

    names: tuple[str, ...]
    prior: tuple[float, ...]
    losses: tuple[tuple[tuple[float, float], ...], ...]
    recent: tuple[float, ...]
    mean: tuple[float, ...]
    now: Mixture
    round: int
    seen: int
    total: int


@dataclass(frozen=True)
class ADO:
    """Follow each domain's own scaling law while training: more of what is common and still falls fast.

    `prior` is mu, the study's unless given; `rounds` how often a run looks again, `s` and `memory` how much, and how
    long, what a domain had of late counts, `share` that of the newest slopes, `floor` the part of a loss that is taken
    to be irreducible at least.
    """

    prior: Mapping[str, float] | None = None
    rounds: int = 60
    s: float = 0.5
    memory: float = 0.9
    share: float = 0.1
    minimum: float = 0.01
    floor: float = 0.5

    def __post_init__(self) -> None:
        """Check the knobs."""
        if self.rounds < 2:
            raise JobError(f"method.rounds: must be at least 2 (got {self.rounds}).")
        for knob in ("s", "memory", "share", "minimum", "floor"):
            if not 0 <= getattr(self, knob) <= 1:
                raise JobError(f"method.{knob}: must be between 0 and 1 (got {getattr(self, knob)}).")

    @property
    def needs(self) -> frozenset[Signal]:
        """Training losses."""
        return frozenset({Train()})

    def init(self, names: Sequence[str], start: Feedback) -> State:
        """The prior, and no losses. Raises JobError for a minimum that so many domains cannot all have."""
        if self.minimum * len(names) >= 1:
            raise JobError(f"method.minimum: {self.minimum} for each of {len(names)} domains leaves nothing to choose.")
        given = Mixture(self.prior) if self.prior is not None else None
        mu_D = beginning(given, names, recovers=True).array(names)
        now, mu = Mixture.from_array(names, lifted(mu_D, self.minimum)), tuple(mu_D.tolist())
        return State(tuple(names), mu, ((),) * len(names), mu, mu, now, 0, start.seen, start.total)

    def segment(self, state: State) -> Segment:
        """One round."""
        return Segment(state.now, max(1, round((state.round + 1) * state.total / self.rounds) - state.seen))

    def update(self, state: State, feedback: Feedback) -> State:
        """Refit the laws, then mix the newest slopes into the mean of those before."""
        middle = (state.seen + feedback.seen) / 2 / state.total
        losses = tuple(
            (*past, (middle, float(loss))) if np.isfinite(loss) else past
            for past, loss in zip(state.losses, feedback.signals["train"], strict=True)
        )
        mu_D, mean_D, t = np.array(state.prior), np.array(state.mean), state.round + 1
        h_D = self.memory * np.array(state.recent) + (1 - self.memory) * state.now.array(state.names)
        rho_D, n = mu_D, feedback.seen / state.total
        if all(len(past) >= FIRST for past in losses):
            slope_D = np.array([slope(fit(np.array(past), self.floor), n) for past in losses])
            rho_D = preference(mu_D, h_D, slope_D, self.s)
        pi_D = lifted(blend(mean_D, rho_D, self.share), self.minimum)
        return replace(
            state,
            losses=losses,
            recent=tuple(h_D.tolist()),
            mean=tuple(((1 - 1 / (t + 1)) * mean_D + rho_D / (t + 1)).tolist()),
            now=Mixture.from_array(state.names, pi_D / pi_D.sum()),
            round=t,
            seen=feedback.seen,
        )

    def load(self, body: Any) -> State:
        """The state that `plain` made this of."""
        return State(**tuples(body) | {"now": Mixture(body["now"]["proportions"])})

    def to_json(self) -> dict[str, Any]:
        """`{"policy": "ado", ...}`."""
        return {"policy": "ado", **knobs(self)}
