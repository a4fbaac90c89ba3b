"""What is asked of a mixture beside bounds, and all of it in the form that a convex solver takes.

A mixture is p = base + expand @ x: domains whose proportions are settled lie in the base, a virtual domain (domains
whose relative proportions are frozen) is one unknown. KL divergences are those of the expanded mixture, so that for
p = (rho p~, ...) the rule KL(p || q) = KL(collapsed p || collapsed q) + rho KL(p~ || q~) needs no term of its own.

    bounds         lower_v = max_j lower_j / p~_j <= x_v <= upper_v = min_j upper_j / p~_j
    groups         lower <= sum of p_j over the group <= upper
    trust.l1       sum_j t_j <= l1 / 2,  t_j >= p_j - prior_j,  t_j >= 0
    trust.kl       KL(p || prior) <= kl

Shapes: D domains, V domains and virtual domains, F unknowns (those of V that are not settled, then t), L rows.

Source: virtual domains and their cap: Olmix (arXiv:2602.12237), mixture reuse, Lemma 1; the term of the chain rule, the
reduction and trust regions in L1 are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mixopt.barrier import ACCURACY, FEASIBLE, Convex, Program, Solution, minimise, phase_one
from mixopt.errors import InfeasibleSpace
from mixopt.limits import Asked
from mixopt.mixture import FloatArray
from mixopt.polytope import FLAT, Polytope, conflict, independent, inside

SMALLEST = 1e-12
TIGHT = 1e-9


@dataclass(frozen=True)
class Prices:
    """What the objective would fall by if a constraint were loosened by one unit of proportion, of L1 or of nats."""

    lower_D: FloatArray
    upper_D: FloatArray
    rows: Mapping[str, float]
    curves_C: FloatArray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class Region:
    """The allowed mixtures as a convex program, with a point strictly inside.

    `picked_F` are the unknowns' domains where no domain is virtual; `owners` are, for each unknown, the domains and
    shares behind its lower and upper bounds.
    """

    base_D: FloatArray
    expand_DF: FloatArray
    picked_F: NDArray[np.intp] | None
    program: Program
    start_F: FloatArray
    labels_L: tuple[str, ...]
    owners: tuple[NDArray[np.intp], NDArray[np.intp]]
    trust_kl: bool

    @classmethod
    def of(cls, asked: Asked) -> Region:
        """Raises InfeasibleSpace, naming what cannot hold together, if nothing is allowed."""
        shares_DV = asked.shares_DV()
        lower_V, upper_V, owners = _bounds(asked, shares_DV)
        space, labels = _polytope(asked, shares_DV, lower_V, upper_V)
        found = inside(space)
        if found is None:
            raise InfeasibleSpace(_conflicting(asked, space, labels))
        equal_EF = independent(np.vstack([space.equal_EF, space.rows_LF[found.held_L]])[:, ~found.held_F])
        free_F = ~found.held_F if len(equal_EF) < (~found.held_F).sum() else np.zeros_like(found.held_F)
        expand_DF = np.hstack([shares_DV, np.zeros((len(shares_DV), len(free_F) - shares_DV.shape[1]))])
        base_D, rows_L = expand_DF @ np.where(free_F, 0, found.x_F), ~found.held_L
        settled_L = space.rows_LF @ np.where(free_F, 0, found.x_F)
        program = Program(
            space.lower_F[free_F],
            space.upper_F[free_F],
            space.rows_LF[np.ix_(rows_L, free_F)],
            (space.limits_L - settled_L)[rows_L],
            equal_EF if free_F.any() else np.zeros((0, 0)),
        )
        picked = np.flatnonzero(free_F[: len(asked.names)]) if not asked.frozen else None
        kept = tuple(label for label, kept in zip(labels, rows_L, strict=True) if kept)
        owners_F = tuple(owner_V[free_F[: len(owner_V)]] for owner_V in owners)
        region = cls(
            base_D, expand_DF[:, free_F], picked, program, found.x_F[free_F], kept, (owners_F[0], owners_F[1]), False
        )
        return region if asked.trust.kl is None else region._within(asked, asked.trust.kl)

    def mixture(self, x_F: FloatArray) -> FloatArray:
        """Proportions [D]."""
        p_D = np.maximum(self.base_D + self.expand_DF @ x_F, 0.0)
        return p_D / p_D.sum()

    def lifted(self, curve: Convex) -> Convex:
        """A curve of proportions as one of the unknowns."""
        picked_F, unknowns = self.picked_F, self.expand_DF.shape[1]
        whole = picked_F is not None and len(picked_F) == unknowns == len(self.base_D)

        def value(x_F: FloatArray) -> tuple[float, FloatArray, FloatArray]:
            value, slope_D, bend_DD = curve(self.base_D + self.expand_DF @ x_F)
            if whole:
                return value, slope_D, bend_DD
            if picked_F is None:
                return value, self.expand_DF.T @ slope_D, self.expand_DF.T @ bend_DD @ self.expand_DF
            slope_F, bend_FF = np.zeros(unknowns), np.zeros((unknowns, unknowns))
            slope_F[: len(picked_F)] = slope_D[picked_F]
            bend_FF[: len(picked_F), : len(picked_F)] = bend_DD[np.ix_(picked_F, picked_F)]
            return value, slope_F, bend_FF

        return value

    def minimise(
        self,
        curve: Convex,
        limited: Sequence[Convex] = (),
        start_F: FloatArray | None = None,
        accuracy: float = ACCURACY,
    ) -> tuple[FloatArray, Prices]:
        """The mixture [D] of the region with the smallest value of the curve where all `limited` ones are below zero.

        A start strictly inside must be given if the region's own is not below zero.
        """
        if not self.expand_DF.shape[1]:
            return self.mixture(np.zeros(0)), self._no_prices(len(limited))
        start_F = self.start_F if start_F is None else start_F
        found = minimise(self.lifted(curve), self._program(limited), start_F, accuracy=accuracy)
        return self.mixture(found.x_F), self._prices(found)

    def feasible(
        self, limited: Sequence[Convex], sizes_C: FloatArray
    ) -> tuple[FloatArray | None, FloatArray, float, Prices]:
        """Unknowns [F] where all `limited` ones are below zero, or None; then mixture, largest value / size, and prices."""
        if not self.expand_DF.shape[1]:
            p_D = self.mixture(np.zeros(0))
            ratios_C = np.array([curve(p_D)[0] for curve in limited]) / sizes_C
            worst = float(ratios_C.max(initial=-1.0))
            prices_C = (ratios_C >= max(worst, 0.0)) / sizes_C
            none = Prices(np.zeros(len(p_D)), np.zeros(len(p_D)), {}, prices_C)
            return (np.zeros(0) if worst <= 0 else None), p_D, worst, none
        found = phase_one(self.program, tuple(self.lifted(curve) for curve in limited), sizes_C, self.start_F)
        prices = self._prices(found)
        return (found.x_F if found.value < -FEASIBLE else None), self.mixture(found.x_F), found.value, prices

    def project(self, w_D: FloatArray) -> FloatArray:
        """The mixture [D] of the region nearest to proportions [D]: the smallest KL(p || w)."""
        return self.minimise(divergence(w_D))[0]

    def _program(self, limited: Sequence[Convex]) -> Program:
        curves = (*self.program.curves, *(self.lifted(curve) for curve in limited))
        own = self.program
        return Program(own.lower_F, own.upper_F, own.rows_LF, own.limits_L, own.equal_EF, curves)

    def _no_prices(self, curves: int) -> Prices:
        return Prices(np.zeros(len(self.base_D)), np.zeros(len(self.base_D)), {}, np.zeros(curves))

    def _prices(self, found: Solution) -> Prices:
        lower_D, upper_D = np.zeros(len(self.base_D)), np.zeros(len(self.base_D))
        for price_D, owner_F, price_F in zip(
            (lower_D, upper_D), self.owners, (found.lower_F, found.upper_F), strict=True
        ):
            at = np.arange(len(owner_F))
            price_D[owner_F] = price_F[: len(owner_F)] / self.expand_DF[owner_F, at]
        rows = {label: float(price) for label, price in zip(self.labels_L, found.rows_L, strict=True) if label}
        if "trust.l1" in rows:
            rows["trust.l1"] /= 2  # its row bounds half of the distance
        curves_C = found.curves_C
        if self.trust_kl:
            rows["trust.kl"], curves_C = float(curves_C[0]), curves_C[1:]
        return Prices(lower_D, upper_D, rows, curves_C)

    def _within(self, asked: Asked, kl: float) -> Region:
        """The part of the region within this KL divergence of the prior."""
        curve = divergence(asked.prior_D)
        if not self.expand_DF.shape[1]:
            nearest, start_F = curve(self.base_D)[0], self.start_F
        else:
            lifted = self.lifted(curve)

            def enough(x_F: FloatArray, left: float) -> bool:
                return lifted(x_F)[0] < max(kl / 2, kl - left)

            found = minimise(lifted, self.program, self.start_F, enough)
            nearest, start_F = found.value, found.x_F
        if nearest > kl * (1 - FEASIBLE):
            raise InfeasibleSpace(
                f"no mixture is allowed: trust.kl is {kl:g}, but the mixture nearest to the prior that bounds, epoch "
                f"caps and groups allow is {nearest:.4g} nats from it. Raise trust.kl or loosen what keeps it away."
            )
        own = self.program
        limit = self.lifted(below(curve, kl))
        program = Program(own.lower_F, own.upper_F, own.rows_LF, own.limits_L, own.equal_EF, (limit,))
        return Region(self.base_D, self.expand_DF, self.picked_F, program, start_F, self.labels_L, self.owners, True)


def divergence(q_D: FloatArray, strength: float = 1.0) -> Convex:
    """Strength * KL(p || q) with its derivatives; a q of zero counts as 1e-12."""
    q_D = np.where(q_D > 0, q_D, SMALLEST)

    def value(p_D: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        p_D = np.maximum(p_D, 1e-300)
        odds_D = np.log(p_D / q_D)
        return strength * float(p_D @ odds_D), strength * (odds_D + 1), np.diag(strength / p_D)

    return value


def below(curve: Convex, limit: float) -> Convex:
    """curve(p) - limit."""

    def value(p_D: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        value, slope_D, bend_DD = curve(p_D)
        return value - limit, slope_D, bend_DD

    return value


def total(*curves: Convex) -> Convex:
    """The sum of curves."""

    def value(p_D: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        found = [curve(p_D) for curve in curves]
        return sum(f[0] for f in found), np.sum([f[1] for f in found], axis=0), np.sum([f[2] for f in found], axis=0)

    return value


def _bounds(
    asked: Asked, shares_DV: FloatArray
) -> tuple[FloatArray, FloatArray, tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Bounds [V] of the unknowns, and the domains that set the lower and the upper ones."""
    upper_D = asked.upper_D if asked.trust.kl is None else np.where(asked.prior_D > 0, asked.upper_D, 0.0)
    part = np.where(shares_DV > 0, shares_DV, np.nan)
    lower_DV, upper_DV = asked.lower_D[:, None] / part, upper_D[:, None] / part
    owners = np.nanargmax(lower_DV, axis=0), np.nanargmin(upper_DV, axis=0)
    lower_V, upper_V = np.nanmax(lower_DV, axis=0), np.minimum(np.nanmin(upper_DV, axis=0), 1.0)
    for v in np.flatnonzero(lower_V > upper_V + TIGHT):
        low, high = (asked.names[owner_V[v]] for owner_V in owners)
        raise InfeasibleSpace(
            f"no mixture is allowed: lower of {low} needs {lower_V[v]:.4g} of what it is frozen with, upper or epoch "
            f"cap of {high} (or a prior of 0 within trust.kl) leaves {upper_V[v]:.4g}. Loosen one of the two."
        )
    return np.minimum(lower_V, upper_V), upper_V, owners


def _polytope(
    asked: Asked, shares_DV: FloatArray, lower_V: FloatArray, upper_V: FloatArray
) -> tuple[Polytope, list[str]]:
    """Bounds, groups and trust.l1 over (x_V, t_D), and a label for each row, empty for those that are definitions."""
    rows: list[FloatArray] = []
    limits: list[float] = []
    equal, constants, labels = [np.ones(shares_DV.shape[1])], [1.0], []
    for name, group in sorted(asked.groups.items()):
        sum_V = np.isin(asked.names, group.domains) @ shares_DV
        if group.upper - group.lower <= FLAT:
            equal.append(sum_V)
            constants.append(group.lower)
            continue
        for row_V, limit, vacuous, side in (
            (-sum_V, -group.lower, group.lower <= 0, "lower"),
            (sum_V, group.upper, group.upper >= 1, "upper"),
        ):
            if not vacuous:
                rows.append(row_V)
                limits.append(limit)
                labels.append(f"groups.{name}.{side}")
    rows_LV, equal_EV = np.array(rows).reshape(-1, len(lower_V)), np.array(equal)
    if asked.trust.l1 is None:
        return Polytope(lower_V, upper_V, rows_LV, np.array(limits), equal_EV, np.array(constants)), labels
    domains, half = len(asked.names), asked.trust.l1 / 2
    wide = np.vstack(
        [
            np.hstack([rows_LV, np.zeros((len(rows_LV), domains))]),
            np.append(np.zeros(len(lower_V)), np.ones(domains)),
            np.hstack([shares_DV, -np.eye(domains)]),
        ]
    )
    return Polytope(
        np.append(lower_V, np.zeros(domains)),
        np.append(upper_V, np.full(domains, half)),
        wide,
        np.concatenate([limits, [half], asked.prior_D]),
        np.hstack([equal_EV, np.zeros((len(equal_EV), domains))]),
        np.array(constants),
    ), [*labels, "trust.l1", *[""] * domains]


def _conflicting(asked: Asked, space: Polytope, labels: Sequence[str]) -> str:
    """A sentence that names groups and trust regions which cannot hold together within the bounds."""
    fixed = [f"groups.{name}" for name, group in sorted(asked.groups.items()) if group.upper - group.lower <= FLAT]
    tied_EF = space.equal_EF[1:]
    both = Polytope(
        space.lower_F,
        space.upper_F,
        np.vstack([space.rows_LF, tied_EF, -tied_EF]),
        np.concatenate([space.limits_L, space.constants_E[1:], -space.constants_E[1:]]),
        space.equal_EF[:1],
        space.constants_E[:1],
    )
    names = [*labels, *fixed, *fixed]
    missing, named_L = conflict(both, np.array([bool(name) for name in names]))
    said = " and ".join(dict.fromkeys(names[i] for i in named_L))
    if not said:
        return (
            "no mixture is allowed: within the frozen proportions the largest allowed ones sum to less than 1, or the "
            "smallest to more. Loosen the bounds of frozen domains."
        )
    return (
        f"no mixture is allowed: {said} cannot hold within bounds and epoch caps; they miss by {missing:.4g} at the "
        "least. Loosen one of them."
    )
