"""What full runs teach: on generated truth the next answer moves the right way, and the first one is judged rightly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixopt import feedback
from mixopt.errors import DataError
from mixopt.feedback import Searched
from mixopt.laws.effdata import EffData
from mixopt.methods.regmix import RegMix
from mixopt.methods.transferred import Carried, Transferred
from mixopt.mixture import FloatArray, Mixture
from mixopt.proposers import propose
from mixopt.quality import own_domains
from mixopt.study import Study
from mixopt.transfers import FullRun, Scale, Transfers, telling
from mixopt.validate import PRIOR
from proxies.toy import Toy

PROXIES, FULL = Scale(10_000, 1000), Scale(10_000_000, 10**9)
METHOD = RegMix("effdata", candidates=2000, keep=16)
TEXT = {"a": "1", "b": "2", "c": "3", "d": "4"}


@dataclass(frozen=True)
class Larger(Toy):
    """A larger model: lower everywhere, and one domain helps all others."""

    helper: int = 0
    helps: float = 0.0

    @property
    def transfer_DD(self) -> FloatArray:
        """The smaller model's, with a higher column."""
        W_DD = super().transfer_DD
        W_DD[np.arange(len(W_DD)) != self.helper, self.helper] += self.helps
        return W_DD

    def run(self, p_D: Sequence[float], scale: Scale = FULL) -> FullRun:
        """A full run on this mixture."""
        metrics = dict(
            zip((f"bpb/{n}" for n in self.names), (self.losses_D(np.array(p_D)) - 0.5).tolist(), strict=True)
        )
        mixture = Mixture.from_array(self.names, np.array(p_D))
        return FullRun(mixture, int(scale.parameters or 0), int(scale.tokens), metrics, TEXT, "t", job="first")

    def value(self, p_D: FloatArray) -> float:
        """The objective there."""
        return float(self.losses_D(p_D).mean())


@pytest.fixture
def study(toy_study: Study, toy: Toy) -> Study:
    """A study with its swarm."""
    rng = np.random.default_rng([toy_study.seed, 0])
    records = tuple(toy(METHOD.ask(toy_study, rng)))
    return replace(toy_study, uncertainty=False, swarm=replace(toy_study.swarm, records=records))


def answer(study: Study, runs: Sequence[FullRun] = ()) -> FloatArray:
    method = Transferred(METHOD, tuple(runs)) if runs else METHOD
    return method.recommend(study, np.random.default_rng(0)).mixture.array(study.space.names)


def searched(study: Study, known: Sequence[FullRun] = ()) -> Searched:
    law = EffData(own_domains(study.space.names, study.objective.metrics)).fit(*study.table())
    found = Searched(study.space, study.objective, PROXIES, FULL, PROXIES, {}, None, law, "effdata", study.table())
    if not known:
        return found
    return replace(
        found, at=known[0].scale, carried=Carried.of(study.space.names, study.objective, study.table(), known)
    )


def tried(study: Study, larger: Larger) -> list[FullRun]:
    """Full runs on the first answer, the prior, and much of the larger model's helper."""
    much_D = np.full(4, 0.1) + 0.6 * (np.arange(4) == larger.helper)
    return [larger.run(p_D) for p_D in (answer(study), study.space.prior_D, much_D)]


@pytest.mark.parametrize("helper", range(4))
def test_the_next_answer_moves_towards_what_is_better_at_scale(study: Study, helper: int) -> None:
    larger, first_D = Larger(study.space.names, helper=helper, helps=0.6), answer(study)
    told = Transferred(METHOD, tuple(tried(study, larger))).recommend(study, np.random.default_rng(0))
    next_D = told.mixture.array(study.space.names)
    best = min(larger.value(p_D) for p_D in np.random.default_rng(1).dirichlet(np.ones(4), 4000))
    assert next_D[helper] > first_D[helper] + 0.05
    assert larger.value(next_D) - best < 0.75 * (larger.value(first_D) - best)
    without = told.evidence["transfer"]["without"]
    assert [without[name] for name in study.space.names] == pytest.approx(first_D)
    assert "moved this answer" in told.evidence["proposer_notes"][0]


def test_a_step_in_level_alone_costs_nothing(study: Study) -> None:
    larger = Larger(study.space.names)
    swarm_D = propose(searched(study).law, study.objective, study.space, np.random.default_rng(0)).p_D
    next_D = answer(study, tried(study, larger))
    assert larger.value(next_D) - larger.value(swarm_D) < 0.003
    assert larger.value(np.full(4, 0.25)) - larger.value(swarm_D) > 0.01


def test_one_full_run_proves_no_gain(study: Study) -> None:
    run = Larger(study.space.names).run(answer(study))
    found = feedback.document(searched(study), run, [run], np.random.default_rng(0))
    assert found["verdict"]["held"] is None
    assert "no other mixture was trained at this scale" in found["says"][0]
    assert found["gains"] == []
    assert found["next"]["used"] is False
    assert "a gain needs 2" in found["next"]["why"]
    step = found["step"]
    assert step["objective"]["change"] == pytest.approx(-0.5, abs=0.02)
    assert sum(row["beside_mean"] for row in step["metrics"].values()) == pytest.approx(0, abs=1e-9)
    assert step["this_scale"] is False


@pytest.mark.parametrize(("at", "word"), [(0.5, "held"), (-0.1, "did not hold"), (1.1, "was exceeded")])
def test_the_verdict_is_the_intervals(study: Study, at: float, word: str) -> None:
    larger, names = Larger(study.space.names), study.space.names
    ours, prior = larger.run([0.3, 0.3, 0.2, 0.2]), larger.run(study.space.prior_D)

    def compared(ours: FullRun) -> dict[str, Any]:
        return feedback.document(searched(study), ours, [prior, ours], np.random.default_rng(0))

    first = compared(ours)["gains"][0]
    assert first["against"] == PRIOR
    true = larger.value(study.space.prior_D) - larger.value(ours.mixture.array(names))
    assert first["measured"] == pytest.approx(true)
    low, high = first["interval"]
    assert low < first["predicted"] < high
    lost = first["measured"] - (low + at * (high - low))
    found = compared(replace(ours, metrics={metric: value + lost for metric, value in ours.metrics.items()}))
    assert found["verdict"]["held"] is (word == "held")
    assert found["says"][0] == found["verdict"]["says"]
    assert found["says"][0].startswith(f"The prediction {word}: over prior {first['predicted']:+.4f} bits per byte")
    assert found["says"][0].endswith(f"{first['measured'] - lost:+.4f} measured.")


def test_what_was_carried_to_this_scale_is_predicted_with_its_level(study: Study) -> None:
    larger = Larger(study.space.names, helper=2, helps=0.3)
    known = tried(study, larger)
    ours = larger.run(answer(study, known))
    moved, still = (
        feedback.document(before, ours, [*known, ours], np.random.default_rng(0))
        for before in (searched(study, known), searched(study))
    )
    errors = [np.abs([row["change"] for row in found["step"]["metrics"].values()]).max() for found in (moved, still)]
    assert errors[0] < 0.1 * errors[1]
    assert moved["step"]["this_scale"] is True
    assert "for this size" in moved["says"][1] and "size's doing" not in moved["says"][1]
    gains = [max(found["gains"], key=lambda gain: gain["mixture"]["a"]) for found in (moved, still)]
    wrong = [abs(gain["predicted"] - gain["measured"]) for gain in gains]
    assert wrong[0] < 0.5 * wrong[1]
    assert len(moved["next"]["runs"]) == 4
    least = min(larger.value(run.mixture.array(study.space.names)) for run in [*known, ours]) - 0.5
    assert moved["next"]["best_run"] == pytest.approx(least)
    assert moved["says"][-1].endswith(f"the best of these runs measured {least:.4f}.")
    assert moved["next"]["gain"]["low"] <= moved["next"]["gain"]["value"] <= moved["next"]["gain"]["high"]


def test_a_run_whose_mixture_changed_is_compared_with_no_other(study: Study) -> None:
    larger = Larger(study.space.names)
    ours, prior = replace(larger.run(answer(study)), fixed=False), larger.run(study.space.prior_D)
    found = feedback.document(searched(study), ours, [prior, ours], np.random.default_rng(0))
    assert found["gains"] == [] and found["verdict"]["held"] is None
    assert "the mixture changed on the way" in found["says"][0]


def test_without_a_law_nothing_is_predicted_and_none_moved(study: Study) -> None:
    larger = Larger(study.space.names)
    ours, prior = larger.run(answer(study)), larger.run(study.space.prior_D)
    lawless = Searched(study.space, study.objective, PROXIES, FULL, PROXIES, {})
    found = feedback.document(lawless, ours, [prior, ours], np.random.default_rng(0))
    assert found["step"] is None and found["verdict"]["held"] is None
    assert "learns no law" in found["next"]["why"]
    mean = {metric: value + 1 for metric, value in ours.metrics.items()}
    arms = {"recommended": (ours.mixture, mean), PRIOR: (prior.mixture, {m: v + 1.1 for m, v in mean.items()})}
    found = feedback.document(replace(lawless, arms=arms), ours, [prior, ours], np.random.default_rng(0))
    assert found["step"]["objective"]["change"] == pytest.approx(-1)
    assert found["gains"][0]["interval"] is None
    assert found["verdict"]["held"] is True  # the direction is all that was predicted


def test_the_nearest_scale_with_two_mixtures_tells() -> None:
    larger = Larger(("a", "b", "c", "d"))
    mixtures = [[0.25, 0.25, 0.25, 0.25], [0.4, 0.2, 0.2, 0.2]]
    near, nearer = Scale(1_000_000, 10**8), Scale(9_800_000, 10**9)
    two = [larger.run(p_D, near) for p_D in mixtures]
    alone = larger.run(mixtures[0], FULL)
    assert telling([*two, alone], PROXIES, FULL) == tuple(two)
    both = [*two, alone, larger.run(mixtures[1], nearer)]  # within 5 % of one another
    assert {run.parameters for run in telling(both, PROXIES, FULL)} == {10_000_000, 9_800_000}
    assert telling([alone, replace(alone, tokenizer="other")], PROXIES, FULL) == ()  # one mixture twice
    assert telling([replace(run, fixed=False) for run in both], PROXIES, FULL) == ()
    smaller = [larger.run(p_D, Scale(5_000, 500)) for p_D in mixtures]
    assert telling(smaller, PROXIES, FULL) == ()  # farther from the target than the proxies


def test_full_runs_are_kept_once_and_survive(tmp_path: Path) -> None:
    run, store = Larger(("a", "b", "c", "d")).run([0.1, 0.2, 0.3, 0.4]), Transfers(tmp_path)
    assert [store.add(run), store.add(replace(run, job="second"))] == [True, False]
    assert [found.id for found in store.about(TEXT)] == [run.id]
    assert store.about(TEXT)[0].metrics == run.metrics
    assert store.about(TEXT | {"a": "other"}) == ()
    path = next((tmp_path / "transfers").iterdir())
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"tokens": 7}))
    with pytest.raises(DataError, match="its content is that of .*Delete it and run mixopt feedback again"):
        store.about(TEXT)
