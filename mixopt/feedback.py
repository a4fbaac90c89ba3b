"""What a full run says about the search that proposed its mixture, and about the next search.

A larger model has lower losses everywhere, so the level of a run proves no mixture right. With one full run the step from
the proxies' law to what was measured is split into its mean and what each domain does beside the mean: that part mixes what
size does to a domain with what the law got wrong, and one run cannot tell them apart. Two runs of one scale on different
mixtures measure a gain, and a gain compares with what was predicted. From then on the law itself can be carried to that
scale (`methods.transferred`), and the next search does so: what it predicts is of that scale, level included.

Gains are differences in bits per byte; positive: the run's mixture is better.

Shapes: R runs of the swarm, D domains, M metrics, B plausible laws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixopt import plausible
from mixopt.errors import SwarmError
from mixopt.laws.base import Law
from mixopt.methods.transferred import Carried
from mixopt.mixture import FloatArray, Mixture
from mixopt.proposers import propose
from mixopt.quality import LEVEL, spearman
from mixopt.runs import Objective
from mixopt.space import MixtureSpace
from mixopt.transfers import LEAST_MIXTURES, SAME_MIXTURE, FullRun, Scale, apart, comparable, mixtures, telling
from mixopt.uncertainty import interval
from mixopt.validate import PRIOR, RECOMMENDED

SCHEMA = "mixopt.feedback/v1"


@dataclass(frozen=True)
class Searched:
    """What the search knew and was asked for.

    `law` is fitted to `swarm`, mixtures [R, D] and metrics [R, M]; both None for methods without a law. `carried` is that
    law at the scale of the full runs that moved the search's answer, if any did, and `at` the scale of what it predicts.
    `arms` are validated mixtures with their mean metrics, `validation` the search's own words on them. `kl` is the
    method's pull to the prior.
    """

    space: MixtureSpace
    objective: Objective
    proxies: Scale
    target: Scale
    at: Scale
    arms: Mapping[str, tuple[Mixture, Mapping[str, float]]]
    validation: Mapping[str, Any] | None = None
    law: Law | None = None
    law_name: str | None = None
    swarm: tuple[FloatArray, FloatArray] | None = None
    kl: float = 0.0
    carried: Carried | None = None

    def arm(self, mixture: Mixture) -> str | None:
        """The validated arm of this mixture."""
        return next((name for name, (other, _) in self.arms.items() if apart(mixture, other) < SAME_MIXTURE), None)

    def metrics(self, mixture: Mixture) -> tuple[FloatArray, str] | None:
        """What the search says of a mixture [M], and who of it: the law, or its validation where there is no law."""
        law = self.carried.law if self.carried else self.law
        if law is not None:
            return law.predict(mixture.array(self.space.names)[None])[0], "law"
        if (arm := self.arm(mixture)) is not None:
            return np.array([self.arms[arm][1][metric] for metric in self.objective.metrics]), "validation"
        return None

    def plausible(self, rng: np.random.Generator) -> list[Law]:
        """Laws that all runs known to the search leave plausible; none where that cannot be said."""
        if self.law is None or self.swarm is None:
            return []
        try:
            if self.carried:
                return self.carried.draws(rng)
            return plausible.plausible(self.law, *self.swarm, rng)
        except SwarmError:
            return []


def document(searched: Searched, run: FullRun, known: Sequence[FullRun], rng: np.random.Generator) -> dict[str, Any]:
    """All that is found out, as plain data. `known` are the full runs on this text that the store has, `run` among them."""
    others = comparable(known, run) if run.fixed else []
    again = rng.spawn(1)[0]
    found: dict[str, Any] = {
        "step": step(searched, run),
        "gains": gains(searched, run, others, rng),
        "next": following(searched, run, known, again),
    }
    found["verdict"] = verdict(searched, run, found["gains"])
    return {
        "schema": SCHEMA,
        "run": {**run.to_json(), "id": run.id},
        "proxies": {"parameters": searched.proxies.parameters, "tokens": searched.proxies.tokens},
        "law": searched.law_name,
        "level": LEVEL,
        "runs_at_this_scale": [other.id for other in others],
        **found,
        "says": says(searched, found),
    }


def step(searched: Searched, run: FullRun) -> dict[str, Any] | None:
    """From what the search says of the run's mixture to what was measured: the objective's step, each metric beside it.

    None where the search says nothing of this mixture.
    """
    if (known := searched.metrics(run.mixture)) is None:
        return None
    predicted_M, by = known
    objective, measured_M = searched.objective, _measured(searched.objective, run)
    change_M = measured_M - predicted_M
    mean = float(change_M @ objective.weights_M)
    rows = zip(objective.metrics, predicted_M, measured_M, change_M, strict=True)
    return {
        "by": by,
        "of": {"parameters": searched.at.parameters, "tokens": searched.at.tokens},
        "this_scale": searched.at.same(run.scale),
        "objective": {
            "predicted": float(predicted_M @ objective.weights_M),
            "measured": float(measured_M @ objective.weights_M),
            "change": mean,
        },
        "metrics": {
            metric: {"predicted": float(p), "measured": float(m), "change": float(c), "beside_mean": float(c - mean)}
            for metric, p, m, c in rows
        },
        "order": spearman(predicted_M, measured_M),
    }


def gains(
    searched: Searched, run: FullRun, others: Sequence[FullRun], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """The run against each other mixture of its scale: measured, and as the search expected. The prior comes first."""
    rivals = [other for other in others if apart(other.mixture, run.mixture) >= SAME_MIXTURE]
    laws = searched.plausible(rng) if rivals else []
    found = [_gain(searched, run, other, laws) for other in rivals]
    return sorted(found, key=lambda gain: (gain["against"] != PRIOR, gain["run"]))


def _gain(searched: Searched, run: FullRun, other: FullRun, laws: Sequence[Law]) -> dict[str, Any]:
    objective, names = searched.objective, searched.space.names
    weights_M = objective.weights_M
    measured_M = _measured(objective, other) - _measured(objective, run)
    said = [searched.metrics(mixture) for mixture in (other.mixture, run.mixture)]
    expected_M = said[0][0] - said[1][0] if said[0] is not None and said[1] is not None else None
    pair_2D = np.array([other.mixture.array(names), run.mixture.array(names)])
    drawn_B2M = np.array([law.predict(pair_2D) for law in laws])
    ends = interval(np.diff(-drawn_B2M @ weights_M, axis=1)[:, 0]) if laws else None
    gain, expected = float(measured_M @ weights_M), None if expected_M is None else float(expected_M @ weights_M)
    return {
        "against": _label(searched, other.mixture),
        "run": other.id,
        "mixture": dict(other.mixture),
        "measured": gain,
        "predicted": expected,
        "interval": [float(end) for end in ends] if ends else None,
        "kept": gain / expected if expected else None,
        "validated": _validated(searched, run, other),
        "metrics": {
            metric: {"measured": float(m), "predicted": None if expected_M is None else float(expected_M[k])}
            for k, (metric, m) in enumerate(zip(objective.metrics, measured_M, strict=True))
        },
        "same_direction": None if expected_M is None else int((np.sign(expected_M) == np.sign(measured_M)).sum()),
    }


def verdict(searched: Searched, run: FullRun, gains: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether the prediction held, in one sentence: of the gain over the prior, or over what else was trained.

    `held` is None where nothing was predicted or nothing can be compared.
    """
    if not gains:
        why = "no other mixture was trained at this scale" if run.fixed else "the mixture changed on the way"
        return {"held": None, "says": f"Whether the prediction holds is not known: it is of a gain, and {why}."}
    gain = gains[0]
    if (expected := gain["predicted"]) is None:
        return {"held": None, "says": f"Nothing was predicted of the gain over {gain['against']}."}
    if gain["interval"]:
        low, high = gain["interval"]
    else:  # only the direction was predicted
        low, high = (0.0, np.inf) if expected >= 0 else (-np.inf, 0.0)
    held = bool(low <= gain["measured"] <= high)
    word = "held" if held else "was exceeded" if gain["measured"] > high else "did not hold"
    says = (
        f"The prediction {word}: over {gain['against']} {expected:+.4f} bits per byte were predicted{_span(gain)}, "
        f"{gain['measured']:+.4f} measured."
    )
    return {"held": held, "says": says}


def following(searched: Searched, run: FullRun, known: Sequence[FullRun], rng: np.random.Generator) -> dict[str, Any]:
    """What the next search for the same target will do with the runs known, and the mixture that it would propose."""
    used = telling(known, searched.proxies, searched.target)
    body: dict[str, Any] = {"runs": [each.id for each in used], "mixture": None}
    if searched.law is None or searched.swarm is None:
        return body | {"used": False, "why": "The search's method learns no law of mixtures, so there is none to move."}
    if not used:
        return body | {"used": False, "why": _unused(searched, run, known)}
    names, objective = searched.space.names, searched.objective
    try:
        carried = Carried.of(names, objective, searched.swarm, used)
        found = propose(carried.law, objective, searched.space, rng, searched.kl)
        laws: list[Law] = carried.draws(rng)
    except SwarmError as e:
        return body | {"used": False, "why": str(e)}
    pair_2D = np.array([run.mixture.array(names), found.p_D])
    gain_B1 = -np.diff(np.array([law.predict(pair_2D) for law in laws]) @ objective.weights_M, axis=1)
    there_2 = carried.law.predict(pair_2D) @ objective.weights_M
    low, high = interval(gain_B1[:, 0])
    scale = {"parameters": used[0].parameters, "tokens": used[0].tokens}
    gain = {"value": float(there_2[0] - there_2[1]), "low": float(low), "high": float(high)}
    mixture = dict(zip(names, found.p_D.tolist(), strict=True))
    why = f"{len(used)} full runs on {len(mixtures(used))} mixtures at one scale carry the swarm's law to it."
    best = float((carried.full[1] @ objective.weights_M).min())
    return body | {
        "used": True,
        "why": why,
        "scale": scale,
        "mixture": mixture,
        "gain": gain,
        "expected": float(there_2[1]),
        "best_run": best,
    }


def says(searched: Searched, found: Mapping[str, Any]) -> list[str]:
    """What it comes to, in sentences: what is known now, and what is not."""
    told = [found["verdict"]["says"], *_step_says(searched, found["step"])]
    told += [_gain_says(gain, len(searched.objective.metrics)) for gain in found["gains"]]
    if not found["gains"]:
        told.append(
            "One full run cannot tell whether another mixture would have been better, nor whether a domain's step is due to "
            "the size or to the law. A second run of this scale, on the prior say, measures the gain."
        )
    else:
        noise = (searched.validation or {}).get("noise")
        beside = f"; between proxies' seeds the objective has a standard deviation of {noise:.4f}" if noise else ""
        told.append(f"A full run that was trained once does not show its own noise{beside}.")
    return told + [_next_says(found["next"])]


def _step_says(searched: Searched, step: Mapping[str, Any] | None) -> list[str]:
    if step is None:
        return ["The search has neither a law nor a validated arm for this mixture: nothing was predicted of it."]
    objective, rows = step["objective"], step["metrics"]
    source = f"the law {searched.law_name}" if step["by"] == "law" else "the validation"
    direction = "less" if objective["change"] < 0 else "more"
    size = "this" if step["this_scale"] else "the proxies'" if searched.carried is None else "the earlier full runs'"
    whose = "" if step["this_scale"] else ", most of it the size's doing"
    measured = (
        f"The full run measured an objective of {objective['measured']:.4f} bits per byte where {source} has "
        f"{objective['predicted']:.4f} for {size} size: {abs(objective['change']):.4f} {direction}{whose}."
    )
    told = [measured]
    if step["order"] is not None:
        told.append(
            f"Domains keep their order by loss with a rank correlation of {step['order']:.2f}: which text is hard carries "
            f"over. It is no test of mixtures."
        )
    if len(rows) > 1:
        least, most = (end(rows, key=lambda m: rows[m]["beside_mean"]) for end in (max, min))
        told.append(
            f"Beside the mean step {most} gained most ({rows[most]['beside_mean']:+.4f}) and {least} least "
            f"({rows[least]['beside_mean']:+.4f})."
        )
    return told


def _gain_says(gain: Mapping[str, Any], metrics: int) -> str:
    did = f"saves {gain['measured']:.4f}" if gain["measured"] >= 0 else f"costs {-gain['measured']:.4f}"
    said = f"Against {gain['against']}, trained at the same scale, the mixture {did} bits per byte"
    if gain["predicted"] is None:
        return f"{said}; the search predicted nothing of that."
    kept = f", {100 * gain['kept']:.0f} % of it arrived" if gain["kept"] is not None and gain["predicted"] > 0 else ""
    return (
        f"{said}; the search predicted {gain['predicted']:+.4f}{_span(gain)}{kept}. "
        f"{gain['same_direction']} of {metrics} metrics moved the way it said."
    )


def _span(gain: Mapping[str, Any]) -> str:
    if not gain["interval"]:
        return ""
    low, high = gain["interval"]
    return f" ({100 * LEVEL:g} % interval {low:+.4f} to {high:+.4f})"


def _next_says(following: Mapping[str, Any]) -> str:
    if not following["used"]:
        return f"The next search will not use full runs: {following['why'][0].lower()}{following['why'][1:]}"
    gain = following["gain"]
    return (
        f"{following['why']} The next search in this store will propose from there. It expects "
        f"{gain['value']:+.4f} bits per byte of its mixture against this run's "
        f"({100 * LEVEL:g} % interval {gain['low']:+.4f} to {gain['high']:+.4f}), an objective of "
        f"{following['expected']:.4f}; the best of these runs measured {following['best_run']:.4f}."
    )


def _unused(searched: Searched, run: FullRun, known: Sequence[FullRun]) -> str:
    """Why the runs known do not move a law."""
    if not run.fixed and not any(other.fixed for other in known):
        return "Their mixtures changed on the way, and a law relates losses to one mixture."
    largest = max(len(mixtures(comparable(known, other))) for other in known)
    if largest < LEAST_MIXTURES:
        return (
            f"They have one mixture at each scale, and a gain needs {LEAST_MIXTURES}. A full run on another mixture at this "
            f"scale would do; record it with --metrics."
        )
    return (
        f"No scale with {LEAST_MIXTURES} mixtures is nearer to the target of {searched.target.tokens:,} tokens than the "
        f"proxies are."
    )


def _measured(objective: Objective, run: FullRun) -> FloatArray:
    return np.array([run.metrics[metric] for metric in objective.metrics])


def _validated(searched: Searched, run: FullRun, other: FullRun) -> dict[str, float] | None:
    """What proxies measured of this gain over paired seeds, where it is a validated one."""
    arm = searched.arm(other.mixture)
    if searched.validation is None or arm in (None, RECOMMENDED) or searched.arm(run.mixture) != RECOMMENDED:
        return None
    return dict(searched.validation["differences"][arm]["objective"])


def _label(searched: Searched, mixture: Mixture) -> str:
    """A mixture's name: the prior's, a validated arm's, or none of these."""
    space = searched.space
    if apart(mixture, space.nearest(space.prior_D)) < SAME_MIXTURE:
        return PRIOR
    return searched.arm(mixture) or "another mixture"
