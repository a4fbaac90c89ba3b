"""ADO: a power law of each domain's training loss, refitted as the run goes on; train on what is still falling fast.

    L_k(n) = eps_k + beta_k n^-alpha_k                        fitted to the smoothed losses so far
    slope_k = alpha_k (L_k - eps_k) / n                       how fast L_k falls, tokens of any domain counting
    rho_k ~ mu_k h_k^s slope_k                                h: what was trained of k of late, mu: the prior
    pi = (1 - share) pibar + share rho,  no proportion below `minimum`;  pibar <- mean of all rho so far

n is the part of the run that was trained: a unit of n changes beta alone. A domain whose law cannot be fitted yet has
its mu as rho; the others share the rest of mu.

Shapes: D domains, F of them with a law, T rounds, A exponents on the grid.

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
from mixopt.policies.rounds import Round, check_rounds, first_round, given
from mixopt.policy import Feedback, Signal, Train, beginning, knobs, tuples

STEEPEST, GRID = 0.8, 20  # largest exponent, and how many are tried at a time
DELTA, REWEIGHTINGS = 1e-3, 8  # of Huber's loss, in nats of log loss
FIRST = 5  # losses of a domain before its law is fitted
WINDOW, DEGREE = 7, 3  # of the smoothing, in rounds


def preference(mu_D: FloatArray, h_D: FloatArray, slope_D: FloatArray, s: float) -> FloatArray:
    """What rho [D] makes of the sum of mu; mu where no loss falls."""
    weight_D = mu_D * h_D**s * slope_D
    return mu_D.sum() * weight_D / weight_D.sum() if weight_D.sum() > 0 else mu_D


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


def slope(law_D3: FloatArray, n: float) -> FloatArray:
    """How fast losses fall [D], alpha (L - eps) / n, where the laws (eps, beta, alpha) say what L is."""
    _, beta_D, alpha_D = law_D3.T
    return np.asarray(alpha_D * beta_D * n**-alpha_D / n)


def fit(points: Sequence[FloatArray], floor: float) -> FloatArray:
    """Laws (eps, beta, alpha) [D, 3] with the smallest Huber loss of the log losses, of each domain's rows (n, loss) [T, 2].

    For each alpha of a grid, and then of a finer one, eps and beta follow from reweighted least squares.
    """
    T = max(map(len, points))  # shorter histories are filled up with rows that count nothing
    n_D1T, y_D1T, there_D1T = np.ones((len(points), 1, T)), np.ones((len(points), 1, T)), np.zeros((len(points), 1, T))
    for j, rows_T2 in enumerate(points):
        at = (j, 0, slice(len(rows_T2)))
        n_D1T[at], y_D1T[at], there_D1T[at] = rows_T2[:, 0], smoothed(rows_T2[:, 1]), 1.0
    low_D1 = np.where(there_D1T > 0, y_D1T, np.inf).min(axis=2)
    alpha_DA, each_D = np.tile(np.linspace(STEEPEST / GRID, STEEPEST, GRID), (len(points), 1)), np.arange(len(points))
    for _ in range(2):
        x_DAT, w_DAT = n_D1T ** -alpha_DA[:, :, None], np.broadcast_to(there_D1T, (len(points), GRID, T))
        for _ in range(REWEIGHTINGS):
            eps_DA, beta_DA = _line(x_DAT, y_D1T, w_DAT / y_D1T**2, (floor * low_D1, low_D1))
            r_DAT = np.abs(np.log((eps_DA[:, :, None] + beta_DA[:, :, None] * x_DAT) / y_D1T))
            w_DAT = there_D1T * DELTA / np.maximum(r_DAT, DELTA)
        huber_DA = (there_D1T * np.where(r_DAT < DELTA, r_DAT**2 / 2, DELTA * (r_DAT - DELTA / 2))).sum(axis=2)
        best = (each_D, huber_DA.argmin(axis=1))
        law_D3 = np.stack([eps_DA[best], beta_DA[best], alpha_DA[best]], axis=1)
        step_D = alpha_DA[:, 1] - alpha_DA[:, 0]
        ends = np.maximum(step_D / GRID, law_D3[:, 2] - step_D), np.minimum(STEEPEST, law_D3[:, 2] + step_D)
        alpha_DA = np.linspace(*ends, GRID, axis=1)
    return law_D3


def smoothed(y_T: FloatArray) -> FloatArray:
    """Losses [T] on the polynomials of the windows around them, or of the last one, never beyond them (Savitzky, Golay)."""
    count = len(y_T)
    if count < WINDOW:
        return y_T
    powers = np.vander(np.linspace(-1, 1, WINDOW), DEGREE + 1)
    fit_WW = powers @ np.linalg.solve(powers.T @ powers, powers.T)  # a window's values to its polynomial's
    first_T = np.clip(np.arange(count) - WINDOW // 2, 0, count - WINDOW)
    rows_TW = np.lib.stride_tricks.sliding_window_view(y_T, WINDOW)[first_T]
    fit_T = (fit_WW[np.arange(count) - first_T] * rows_TW).sum(axis=1)
    return np.asarray(np.clip(fit_T, rows_TW.min(axis=1), rows_TW.max(axis=1)))


def _line(
    x_DAT: FloatArray, y_D1T: FloatArray, w_DAT: FloatArray, within: tuple[FloatArray, FloatArray]
) -> tuple[FloatArray, FloatArray]:
    """Both eps and beta [D, A] of y ~ eps + beta x by weighted least squares, eps within bounds [D, 1]."""
    wx_DAT = w_DAT * x_DAT
    sum_DA, x_DA, xx_DA = w_DAT.sum(axis=2), wx_DAT.sum(axis=2), (wx_DAT * x_DAT).sum(axis=2)
    y_DA, xy_DA = (w_DAT * y_D1T).sum(axis=2), (wx_DAT * y_D1T).sum(axis=2)
    eps_DA = np.clip((xx_DA * y_DA - x_DA * xy_DA) / np.maximum(sum_DA * xx_DA - x_DA**2, 1e-300), *within)
    return eps_DA, np.maximum(xy_DA - eps_DA * x_DA, 0) / xx_DA


@dataclass(frozen=True)
class State:
    """`losses` holds (middle of the round as a part of the run, loss) for each domain; `prior` mu, `recent` h, `mean` pibar."""

    names: tuple[str, ...]
    round: Round
    prior: tuple[float, ...]
    losses: tuple[tuple[tuple[float, float], ...], ...]
    recent: tuple[float, ...]
    mean: tuple[float, ...]
    now: Mixture


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
        check_rounds(self.rounds, FIRST + 1)
        given("prior", self.prior)
        for knob in ("s", "memory", "share", "minimum", "floor"):
            if not 0 <= getattr(self, knob) <= 1:
                raise JobError(f"method.{knob}: must be between 0 and 1 (got {getattr(self, knob)}).")

    @property
    def needs(self) -> frozenset[Signal]:
        """Training losses."""
        return frozenset({Train()})

    def init(self, names: Sequence[str], start: Feedback) -> State:
        """The prior, and no losses. Raises JobError for a minimum that not all can have, or rounds shorter than a step."""
        if self.minimum * len(names) >= 1:
            raise JobError(f"method.minimum: {self.minimum} for each of {len(names)} domains leaves nothing to choose.")
        mu_D = beginning(given("prior", self.prior), names, recovers=True).array(names)
        now, mu = Mixture.from_array(names, lifted(mu_D, self.minimum)), tuple(mu_D.tolist())
        return State(tuple(names), first_round(self.rounds, start), mu, ((),) * len(names), mu, mu, now)

    def segment(self, state: State) -> Segment:
        """The rest of the round on pi."""
        return Segment(state.now, state.round.tokens)

    def update(self, state: State, feedback: Feedback) -> State:
        """Refit the laws, then mix the newest slopes into the mean of those before."""
        middle = (state.round.seen + feedback.seen) / 2 / feedback.total
        losses = tuple(
            (*past, (middle, float(loss))) if np.isfinite(loss) else past
            for past, loss in zip(state.losses, feedback.signals["train"], strict=True)
        )
        mu_D, mean_D, t = np.array(state.prior), np.array(state.mean), state.round.done + 1
        trained_D = (feedback.trained or state.now).array(state.names)
        h_D = self.memory * np.array(state.recent) + (1 - self.memory) * trained_D
        rho_D, known = mu_D.copy(), [j for j, past in enumerate(losses) if len(past) >= FIRST]
        if known:
            laws = fit([np.array(losses[j]) for j in known], self.floor)
            slope_F = slope(laws, feedback.seen / feedback.total)
            rho_D[known] = preference(mu_D[known], h_D[known], slope_F, self.s)
        pi_D = lifted(blend(mean_D, rho_D, self.share), self.minimum)
        return replace(
            state,
            round=state.round.after(feedback),
            losses=losses,
            recent=tuple(h_D.tolist()),
            mean=tuple(((1 - 1 / (t + 1)) * mean_D + rho_D / (t + 1)).tolist()),
            now=Mixture.from_array(state.names, pi_D / pi_D.sum()),
        )

    def load(self, body: Any) -> State:
        """The state that `plain` made this of."""
        return State(**tuples(body) | {"round": Round(**body["round"]), "now": Mixture(body["now"])})

    def to_json(self) -> dict[str, Any]:
        """`{"policy": "ado", ...}`."""
        return {"policy": "ado", **knobs(self)}
