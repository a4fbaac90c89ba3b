"""The mixtures that are allowed: simplex, bounds, epoch caps of the real run, groups, trust region, frozen proportions.

Shapes: D domains in the order `space.names` (sorted: the order of a file cannot matter), V domains and virtual domains,
N candidates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mixopt.domains import Domain
from mixopt.errors import InfeasibleSpace, JobError, did_you_mean
from mixopt.limits import Asked, Group, Trust
from mixopt.mixture import SUM_TOLERANCE, FloatArray, Mixture

if TYPE_CHECKING:
    from mixopt.constraints import Region

SLACK = 1e-9
REJECTIONS = 200
TOLD = 5  # domains named in a sentence about bounds
TEMPERATURE = 0.5  # of the prior that draws are centred on
STRENGTHS = np.geomspace(0.1, 5.0, 15)  # mean concentration of a domain: from nearly one-hot to dense
MINIMUM = 2e-4  # smaller proportions are drawn as zero
NEAR = 0.01  # Euclidean distance under which a mixture would tell nothing new


@dataclass(frozen=True)
class MixtureSpace:
    """Mixtures w with lower <= w <= upper and epochs(w) <= max_epochs for a run of `target_tokens`.

    `groups` bound the sums of several domains, `trust` the distance to the prior; `frozen` names virtual domains, sets
    of domains whose relative proportions are given and which move as one. The prior is proportional to the available
    tokens unless given. Raises InfeasibleSpace when nothing is allowed.
    """

    domains: tuple[Domain, ...]
    target_tokens: int
    max_epochs: float = 4.0
    prior: Mixture | None = None
    lower: Mapping[str, float] = field(default_factory=dict)
    upper: Mapping[str, float] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    trust: Trust = field(default_factory=Trust)
    frozen: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Sort the domains, check names and feasibility."""
        object.__setattr__(self, "domains", tuple(sorted(self.domains, key=lambda d: d.name)))
        for key, bounds in (("lower", self.lower), ("upper", self.upper)):
            for name, value in bounds.items():
                if name not in self.names:
                    raise JobError(f"target.{key}: unknown domain {name!r}; {did_you_mean(name, self.names)}")
                if not 0 <= value <= 1:
                    raise JobError(f"target.{key}.{name}: must be a proportion in [0, 1] (got {value}).")
        if self.prior is not None:
            self.prior.array(self.names)
        self._check_listed()
        self._check_groups()
        self._check_feasible()
        if not self._bounds_only:
            self.region  # noqa: B018 - raises InfeasibleSpace if groups, trust and bounds exclude each other

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The canonical order of the domains."""
        return tuple(domain.name for domain in self.domains)

    @cached_property
    def tokens_D(self) -> FloatArray:
        """Tokens available to the real run [D]."""
        return np.array([domain.tokens for domain in self.domains], dtype=float)

    @cached_property
    def prior_D(self) -> FloatArray:
        """The prior's proportions [D]."""
        if self.prior is not None:
            return self.prior.array(self.names)
        return self.tokens_D / self.tokens_D.sum()

    @property
    def prior_mixture(self) -> Mixture:
        """The prior."""
        return Mixture.from_array(self.names, self.prior_D)

    @cached_property
    def lower_D(self) -> FloatArray:
        """Smallest allowed proportions [D]."""
        return np.array([self.lower.get(name, 0.0) for name in self.names])

    @cached_property
    def bound_D(self) -> FloatArray:
        """The user's own upper bounds [D], without the epoch caps."""
        return np.array([self.upper.get(name, 1.0) for name in self.names])

    @cached_property
    def upper_D(self) -> FloatArray:
        """Largest allowed proportions [D]: min(upper, max_epochs * tokens / target_tokens)."""
        return np.minimum(self.bound_D, self.max_epochs * self.tokens_D / self.target_tokens)

    def epochs(self, mixture: Mixture) -> dict[str, float]:
        """How often the real run would read each domain: target_tokens * proportion / available tokens."""
        e_D = self.target_tokens * mixture.array(self.names) / self.tokens_D
        return dict(zip(self.names, e_D.tolist(), strict=True))

    @cached_property
    def region(self) -> Region:
        """All constraints in the form that exact solvers take."""
        from mixopt.constraints import Region  # here, so that training takes no more than torch and numpy

        return Region.of(self._asked)

    @cached_property
    def _asked(self) -> Asked:
        return Asked(self.names, self.lower_D, self.upper_D, self.prior_D, self.groups, self.trust, self.frozen)

    @property
    def _bounds_only(self) -> bool:
        return not self.groups and self.trust == Trust() and not self.frozen

    def violations(self, mixture: Mixture) -> list[str]:
        """One sentence for each broken constraint; an empty list means allowed."""
        epochs, w_D = self.epochs(mixture), mixture.array(self.names)
        sentences = []
        for name, w, low, high in zip(self.names, w_D, self.lower_D, self.bound_D, strict=True):
            if w < low - SLACK:
                sentences.append(f"{name}: proportion {w:.6g} is below lower {low:.6g}")
            if w > high + SLACK:
                sentences.append(f"{name}: proportion {w:.6g} is above upper {high:.6g}")
            if epochs[name] > self.max_epochs * (1 + SLACK) + SLACK:
                sentences.append(
                    f"{name}: {epochs[name]:.3g} epochs at {self.target_tokens:,} target tokens, "
                    f"max_epochs is {self.max_epochs:g}"
                )
        return sentences + self._broken_sets(mixture) + self._broken_trust(mixture)

    def allowed(self, w_ND: FloatArray) -> NDArray[np.bool_]:
        """Which rows [N] break no constraint. Rows that are no proportions break one."""
        inside_N = np.all((w_ND >= self.lower_D - SLACK) & (w_ND <= self.upper_D + SLACK), axis=1)
        inside_N &= np.abs(w_ND.sum(axis=1) - 1) <= SUM_TOLERANCE
        if self._bounds_only:
            return np.asarray(inside_N)
        return np.array(
            [
                bool(inside) and not self.violations(Mixture.from_array(self.names, np.maximum(w_D, 0.0)))
                for inside, w_D in zip(inside_N, w_ND, strict=True)
            ]
        )

    def _broken_sets(self, mixture: Mixture) -> list[str]:
        sentences = []
        for name, group in sorted(self.groups.items()):
            total = sum(mixture[domain] for domain in group.domains)
            if total < group.lower - SLACK:
                sentences.append(f"group {name}: sum {total:.6g} is below lower {group.lower:.6g}")
            if total > group.upper + SLACK:
                sentences.append(f"group {name}: sum {total:.6g} is above upper {group.upper:.6g}")
        for name, shares in sorted(self.frozen.items()):
            total = sum(mixture[domain] for domain in shares)
            off = {domain: mixture[domain] - total * share for domain, share in shares.items()}
            domain = max(off, key=lambda domain: abs(off[domain]))
            if abs(off[domain]) > SLACK:
                sentences.append(
                    f"frozen {name}: {domain} is {mixture[domain] / total:.6g} of it, not {shares[domain]:.6g}"
                )
        return sentences

    def _broken_trust(self, mixture: Mixture) -> list[str]:
        sentences = []
        if self.trust.kl is not None and (kl := mixture.kl(self.prior_mixture)) > self.trust.kl + SLACK:
            sentences.append(f"{kl:.6g} nats from the prior, trust.kl is {self.trust.kl:g}")
        l1 = float(np.abs(mixture.array(self.names) - self.prior_D).sum())
        if self.trust.l1 is not None and l1 > self.trust.l1 + SLACK:
            sentences.append(f"L1 distance {l1:.6g} from the prior, trust.l1 is {self.trust.l1:g}")
        return sentences

    def project(self, w_ND: FloatArray, upper_D: FloatArray | None = None) -> FloatArray:
        """The mixtures within bounds and epoch caps proportional to the rows of `w_ND` ([N, D] or [D]) elsewhere.

        Solves sum_v clip(s * w_v, lower_v, upper_v) = 1 for each row's scale s by bisection on log s; clipping first
        and normalising afterwards would break the caps again. Virtual domains move as one; groups and the trust region
        are `nearest`'s.
        """
        lower_V, upper_V = self._collapsed_bounds(self.upper_D if upper_D is None else upper_D)
        w_NV = np.maximum(self.collapse(w_ND), 1e-12)
        low, high = (np.full((*w_NV.shape[:-1], 1), end) for end in (-60.0, 60.0))
        for _ in range(60):
            middle = (low + high) / 2
            sum_N = np.clip(np.exp(middle) * w_NV, lower_V, upper_V).sum(-1, keepdims=True)
            low, high = np.where(sum_N < 1, middle, low), np.where(sum_N < 1, high, middle)
        p_NV = np.clip(np.exp(high) * w_NV, lower_V, upper_V)
        free = (p_NV > lower_V) & (p_NV < upper_V)
        held_N, free_N = (np.where(side, p_NV, 0.0).sum(-1, keepdims=True) for side in (~free, free))
        return self.expand(np.where(free, p_NV * (1 - held_N) / np.maximum(free_N, 1e-300), p_NV))

    def collapse(self, w_ND: FloatArray) -> FloatArray:
        """Proportions of virtual domains and of the other domains [N, V] or [V]."""
        return w_ND @ (self._shares_DV > 0) if self.frozen else w_ND

    def expand(self, r_NV: FloatArray) -> FloatArray:
        """Proportions of domains [N, D] or [D] from those of virtual and other domains: p_j = r_v * share_jv."""
        return r_NV @ self._shares_DV.T if self.frozen else r_NV

    @cached_property
    def _shares_DV(self) -> FloatArray:
        return self._asked.shares_DV()

    def _collapsed_bounds(self, upper_D: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Bounds [V] of virtual and other domains: the tightest of those of their parts."""
        if not self.frozen:
            return self.lower_D, upper_D
        part_DV = np.where(self._shares_DV > 0, self._shares_DV, np.nan)
        return np.nanmax(self.lower_D[:, None] / part_DV, axis=0), np.nanmin(upper_D[:, None] / part_DV, axis=0)

    def nearest(self, w_D: FloatArray) -> Mixture:
        """The mixture of these proportions [D] where it is allowed, else the allowed one with the smallest KL from it."""
        mixture = Mixture.from_array(self.names, w_D)
        if not self.violations(mixture):
            return mixture
        return Mixture.from_array(self.names, self.project(w_D) if self._bounds_only else self.region.project(w_D))

    def dirichlet(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw `count` mixtures [N, D] around the tempered prior; a larger count only adds to the end.

        Each draw picks one of 15 strengths s and samples Dirichlet(s * D * tempered prior), so that s is the
        mean concentration of a domain and the swarm is as dense for many domains as for few; proportions
        under 2e-4 become zero; draws outside the user's bounds or nearly equal to an earlier one are rejected.
        Virtual domains move as one. Epoch caps, groups and trust regions are left to the proposer.

        Source: RegMix (arXiv:2407.01492), reference code `synthesize_mixture.py`, where s is the concentration of all
        domains together; no near-duplicates, caps in the optimiser only: Olmix (arXiv:2602.12237).
        """
        base_V = self.collapse(self.prior_D) ** TEMPERATURE
        base_V = len(base_V) * base_V / base_V.sum()
        w_ND = np.empty((count, len(self.names)))
        for i, child in enumerate(rng.spawn(count)):
            w_ND[i] = self._draw(child, base_V, w_ND[:i])
        return w_ND

    def _draw(self, rng: np.random.Generator, base_V: FloatArray, earlier_ND: FloatArray) -> FloatArray:
        w_D = self.expand(base_V)
        for _ in range(REJECTIONS):
            r_V = rng.dirichlet(np.maximum(rng.choice(STRENGTHS) * base_V, 1e-9))
            r_V = np.where(r_V < MINIMUM, 0.0, r_V)
            w_D = self.expand(r_V / r_V.sum())
            inside = (w_D <= self.bound_D + SLACK).all() and (w_D >= self.lower_D - SLACK).all()
            if inside and (((earlier_ND - w_D) ** 2).sum(1) >= NEAR**2).all():
                return w_D
        return self.project(w_D, self.bound_D)

    def _check_groups(self) -> None:
        for name, group in self.groups.items():
            if not 0 <= group.lower <= group.upper <= 1:
                raise JobError(
                    f"target.groups.{name}: 0 <= lower <= upper <= 1 is needed (got {group.lower:g}, {group.upper:g})."
                )
        for key, value in (("kl", self.trust.kl), ("l1", self.trust.l1)):
            if value is not None and not value > 0:
                raise JobError(f"target.trust.{key}: must be positive (got {value:g}); only the prior itself is at 0.")

    def _check_listed(self) -> None:
        known = [(f"target.groups.{name}", list(group.domains)) for name, group in self.groups.items()]
        known += [(f"frozen {name}", list(shares)) for name, shares in self.frozen.items()]
        for where, listed in known:
            for name in listed:
                if name not in self.names:
                    raise JobError(f"{where}: unknown domain {name!r}; {did_you_mean(name, self.names)}")
            if not listed or len(set(listed)) < len(listed):
                raise JobError(f"{where}: must list at least one domain, each once (got {listed}).")
        for name, shares in self.frozen.items():
            if any(not share > 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > SLACK:
                raise JobError(f"frozen {name}: proportions must be positive and sum to 1 (got {dict(shares)}).")
        twice = [
            name for name, count in Counter(n for shares in self.frozen.values() for n in shares).items() if count > 1
        ]
        if twice:
            raise JobError(f"frozen: {', '.join(twice)} would move with two virtual domains. Leave them in one.")

    def _check_feasible(self) -> None:
        if self.target_tokens <= 0:
            raise JobError(f"target.tokens: must be positive (got {self.target_tokens}).")
        if not self.max_epochs > 0:
            raise JobError(f"target.max_epochs: must be positive (got {self.max_epochs}).")
        empty = [domain.name for domain in self.domains if domain.tokens <= 0]
        if empty:
            raise JobError(f"domains without tokens: {', '.join(empty)}. Drop them or give their token count.")
        crossed = np.flatnonzero(self.lower_D > self.upper_D + SLACK)
        if len(crossed):
            said = "; ".join(self._limits(j) for j in crossed.tolist())
            raise InfeasibleSpace(f"no mixture is allowed: lower is above upper for {said}. Loosen one of the two.")
        if self.upper_D.sum() < 1 - SLACK:
            tightest = np.argsort(self.upper_D, kind="stable")
            said = "; ".join(self._limits(j) for j in tightest[:TOLD].tolist())
            more = f"; and {len(tightest) - TOLD} more" if len(tightest) > TOLD else ""
            advice = "raise upper bounds"
            if self.max_epochs * self.tokens_D.sum() < self.target_tokens:
                advice = (
                    f"{int(self.tokens_D.sum()):,} tokens at max_epochs {self.max_epochs:g} cannot fill "
                    f"{self.target_tokens:,} target tokens: raise max_epochs, lower the target tokens, or add text"
                )
            raise InfeasibleSpace(
                f"no mixture is allowed: the largest allowed proportions sum to {self.upper_D.sum():.4g}, less than 1 "
                f"({said}{more}); {advice}."
            )
        if self.lower_D.sum() > 1 + SLACK:
            said = ", ".join(f"{name} {low:g}" for name, low in zip(self.names, self.lower_D, strict=True) if low)
            raise InfeasibleSpace(f"no mixture is allowed: lower bounds sum to {self.lower_D.sum():.4g} > 1 ({said}).")

    def _limits(self, j: int) -> str:
        cap = self.max_epochs * self.tokens_D[j] / self.target_tokens
        why = "epoch cap" if cap < self.bound_D[j] else "upper"
        return f"{self.names[j]} lower {self.lower_D[j]:.4g}, {why} {self.upper_D[j]:.4g}"
