"""The mixtures that are allowed: simplex, bounds, and caps on how often the real run may repeat a domain.

Shapes: D domains in the order `space.names` (sorted: the order of a file cannot matter), N candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mixopt.domains import Domain
from mixopt.errors import InfeasibleSpace, JobError, did_you_mean
from mixopt.mixture import FloatArray, Mixture

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

    The prior is proportional to the available tokens unless given. Raises InfeasibleSpace when nothing is allowed.
    """

    domains: tuple[Domain, ...]
    target_tokens: int
    max_epochs: float = 4.0
    prior: Mixture | None = None
    lower: Mapping[str, float] = field(default_factory=dict)
    upper: Mapping[str, float] = field(default_factory=dict)

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
        self._check_feasible()

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

    def violations(self, mixture: Mixture) -> list[str]:
        """One sentence for each broken bound; an empty list means allowed."""
        epochs = self.epochs(mixture)
        sentences = []
        for name, w, low, high in zip(self.names, mixture.array(self.names), self.lower_D, self.bound_D, strict=True):
            if w < low - SLACK:
                sentences.append(f"{name}: proportion {w:.6g} is below lower {low:.6g}")
            if w > high + SLACK:
                sentences.append(f"{name}: proportion {w:.6g} is above upper {high:.6g}")
            if epochs[name] > self.max_epochs * (1 + SLACK) + SLACK:
                sentences.append(
                    f"{name}: {epochs[name]:.3g} epochs at {self.target_tokens:,} target tokens, "
                    f"max_epochs is {self.max_epochs:g}"
                )
        return sentences

    def project(self, w_ND: FloatArray, upper_D: FloatArray | None = None) -> FloatArray:
        """The points of the space proportional to the rows of `w_ND` ([N, D] or [D]) except where a bound holds.

        Solves sum_j clip(s * w_j, lower_j, upper_j) = 1 for each row's scale s by bisection on log s; clipping first
        and normalising afterwards would break the caps again.
        """
        upper_D = self.upper_D if upper_D is None else upper_D
        w_ND = np.maximum(w_ND, 1e-12)
        low, high = (np.full((*w_ND.shape[:-1], 1), end) for end in (-60.0, 60.0))
        for _ in range(60):
            middle = (low + high) / 2
            sum_N = np.clip(np.exp(middle) * w_ND, self.lower_D, upper_D).sum(-1, keepdims=True)
            low, high = np.where(sum_N < 1, middle, low), np.where(sum_N < 1, high, middle)
        p_ND = np.clip(np.exp(high) * w_ND, self.lower_D, upper_D)
        free = (p_ND > self.lower_D) & (p_ND < upper_D)
        held_N, free_N = (np.where(side, p_ND, 0.0).sum(-1, keepdims=True) for side in (~free, free))
        return np.where(free, p_ND * (1 - held_N) / np.maximum(free_N, 1e-300), p_ND)

    def nearest(self, w_D: FloatArray) -> Mixture:
        """The mixture of these proportions [D] where it is allowed, else its projection."""
        mixture = Mixture.from_array(self.names, w_D)
        return mixture if not self.violations(mixture) else Mixture.from_array(self.names, self.project(w_D))

    def dirichlet(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw `count` mixtures [N, D] around the tempered prior; a larger count only adds to the end.

        Each draw picks one of 15 strengths s and samples Dirichlet(s * D * tempered prior), so that s is the
        mean concentration of a domain and the swarm is as dense for many domains as for few; proportions
        under 2e-4 become zero; draws outside the user's bounds or nearly equal to an earlier one are rejected.
        Epoch caps are left to the proposer.

        Source: RegMix (arXiv:2407.01492), reference code `synthesize_mixture.py`, where s is the concentration of all
        domains together; no near-duplicates, caps in the optimiser only: Olmix (arXiv:2602.12237).
        """
        base_D = self.prior_D**TEMPERATURE
        base_D = len(base_D) * base_D / base_D.sum()
        w_ND = np.empty((count, len(base_D)))
        for i, child in enumerate(rng.spawn(count)):
            w_ND[i] = self._draw(child, base_D, w_ND[:i])
        return w_ND

    def _draw(self, rng: np.random.Generator, base_D: FloatArray, earlier_ND: FloatArray) -> FloatArray:
        w_D = base_D
        for _ in range(REJECTIONS):
            w_D = rng.dirichlet(np.maximum(rng.choice(STRENGTHS) * base_D, 1e-9))
            w_D = np.where(w_D < MINIMUM, 0.0, w_D)
            w_D = w_D / w_D.sum()
            inside = (w_D <= self.bound_D + SLACK).all() and (w_D >= self.lower_D - SLACK).all()
            if inside and (((earlier_ND - w_D) ** 2).sum(1) >= NEAR**2).all():
                return w_D
        return self.project(w_D, self.bound_D)

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
