"""Which method is best on this text, at equal cost?

Every method may search with B tokens of the job's proxies. It is charged s, the tokens of all runs that it asked for, also
where another method had them trained. Then its answer trains a larger target proxy, over the same seeds as uniform's:

    same final run   for T tokens, whatever the search cost
    same total       for T + r (B - s) tokens: what a method does not spend on searching, its final run gets

r tokens of the target cost as much as one of a proxy. Probes that a policy trains beside its final run count at the same
total: the run is shorter by what they take.

    gain = objective under uniform - objective under the method      paired over seeds; positive: the method is better

Shapes: everything here is plain data by name.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from mixopt.errors import InfeasibleSpace, JobError, RunFailed
from mixopt.methods import BASELINES
from mixopt.methods.online import limited
from mixopt.policy import Fixed, OnlinePolicy, told
from mixopt.rehearsal import affordable
from mixopt.runs import Objective, Proxy, RunRecord, RunSpec, Swarm
from mixopt.space import MixtureSpace
from mixopt.study import Adapting, Method, Study
from mixopt.validate import LEVEL, PRIOR, UNIFORM, Interval

SCHEMA = "mixopt.compare/v1"
READINGS = {"same_total": "same total", "same_final": "same final run"}


@dataclass(frozen=True)
class Terms:
    """What is equal for all: B search tokens, T final ones in steps of `step`, the rate r, and the final runs' seeds."""

    budget: int
    tokens: int
    step: int
    rate: float
    seeds: tuple[int, ...]

    def total(self, spent: int) -> int:
        """What the final run may cost at the same total, its probes included."""
        return int(self.tokens + self.rate * max(0, self.budget - spent))

    def length(self, feed: OnlinePolicy[Any], names: Sequence[str], spent: int) -> int:
        """Length of the final run at the same total; T itself where the difference is less than a step.

        Raises JobError where the probes of the policy leave nothing for the run.
        """
        tokens = affordable(feed, names, self.total(spent), self.step)
        return self.tokens if abs(tokens - self.tokens) < self.step else tokens


@dataclass(frozen=True)
class Contender:
    """A method after its search: the runs that it is charged for, and what is to feed its final runs, or an error."""

    label: str
    name: str
    knobs: Mapping[str, Any] = field(default_factory=dict)
    searched: Swarm = field(default_factory=Swarm)
    feed: OnlinePolicy[Any] | None = None
    error: str = ""
    notes: tuple[str, ...] = ()

    @property
    def spent(self) -> int:
        """Tokens of its search: probes, reference runs and diverged ones count."""
        return sum(record.cost.tokens for record in self.searched.records)


@dataclass(frozen=True)
class Final:
    """Final runs of `tokens` tokens under a method and those of uniform in the same reading, at the same seeds."""

    tokens: int
    own: tuple[RunRecord, ...]
    uniform: tuple[RunRecord, ...]

    @property
    def pairs(self) -> list[tuple[RunRecord, RunRecord]]:
        """Those of which both ended well. Raises RunFailed for fewer than two."""
        found = [(a, b) for a, b in zip(self.own, self.uniform, strict=True) if not a.error and not b.error]
        if len(found) < 2:
            raise RunFailed(
                f"only {len(found)} of {len(self.own)} pairs of final runs of {self.tokens:,} tokens ended well"
            )
        return found

    def difference(self, value: Callable[[RunRecord], float]) -> Interval:
        """Uniform's value minus the method's, over the seeds."""
        return Interval.paired([value(uniform) - value(own) for own, uniform in self.pairs])

    def change(self, metric: str) -> Interval:
        """By what part of uniform's a metric is higher under the method, over the seeds."""
        return Interval.paired([own.metrics[metric] / uniform.metrics[metric] - 1 for own, uniform in self.pairs])


def asked(method: Method, study: Study) -> list[RunSpec]:
    """The runs of its search: of a method that adapts only what its policy must know first, since that feeds the final run."""
    rng = np.random.default_rng([study.seed, 0])
    return method.learn(study, rng) if isinstance(method, Adapting) else method.ask(study, rng)


def answer(name: str, method: Method, study: Study) -> tuple[OnlinePolicy[Any], tuple[str, ...]]:
    """What is to feed the final runs, and what must be said about it.

    Uniform and prior are moved to the nearest allowed mixture where a bound or cap forbids them, as in validation. A
    schedule planned by hand that is not allowed raises InfeasibleSpace.
    """
    rng = np.random.default_rng([study.seed, 1])
    if isinstance(method, Adapting):
        if name in BASELINES:
            method.recommend(study, rng)
        return limited(method.policy(study, rng), study.space), ()
    try:
        return method.recommend(study, rng).feed, ()
    except InfeasibleSpace as e:
        if name not in (UNIFORM, PRIOR):
            raise
        space = study.space
        wanted_D = space.prior_D if name == PRIOR else np.full(len(space.names), 1 / len(space.names))
        return Fixed(space.nearest(wanted_D)), (f"the nearest allowed mixture in its place: {e}",)


def refuse_overspending(records: Sequence[RunSpec | RunRecord], terms: Terms) -> None:
    """Raise JobError for runs, asked for or made, that are more than the budget; each may round up to a whole step."""
    tokens = allowance = 0
    for run in records:
        proxy = run.proxy if isinstance(run, RunSpec) else run.spec.proxy
        tokens += run.proxy.tokens if isinstance(run, RunSpec) else run.cost.tokens
        allowance += proxy.batch * proxy.sequence
    if tokens > terms.budget + allowance:
        raise JobError(
            f"its search takes {tokens:,} tokens in {len(records)} runs, the budget is {terms.budget:,}. "
            "Raise compare.budget or make the method cheaper."
        )


def final_specs(
    feeds: Mapping[str, OnlinePolicy[Any]], tokens: Mapping[str, int], target: Proxy, seeds: Sequence[int]
) -> dict[str, list[RunSpec]]:
    """The final runs of each method, one per seed, at its number of tokens."""
    proxies = {label: target if count == target.tokens else target.lasting(count) for label, count in tokens.items()}
    return {label: [RunSpec(feed, proxies[label], seed) for seed in seeds] for label, feed in feeds.items()}


def stackable(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """The same specs, those of one shape next to each other: they train together."""
    shapes: dict[str, list[RunSpec]] = {}
    for spec in specs:
        shapes.setdefault(repr(spec.proxy.shared), []).append(spec)
    return [spec for alike in shapes.values() for spec in alike]


def row(contender: Contender, finals: Mapping[str, Final], objective: Objective, space: MixtureSpace) -> dict[str, Any]:
    """All that was measured of one method; `finals` by reading. An error in place of what could not be."""
    names = space.names
    found: dict[str, Any] = {
        "method": contender.label,
        "name": contender.name,
        "knobs": dict(contender.knobs),
        "adapts": contender.feed is not None and bool(contender.feed.needs),
        "as_uniform": False,
        "error": contender.error,
        "notes": list(contender.notes),
        "search": {
            "runs": len(contender.searched.records),
            "tokens": contender.spent,
            "seconds": sum(record.cost.seconds for record in contender.searched.records),
        },
        **dict.fromkeys(READINGS),
        "worst_domain": None,
        "changes": {},
        "mixture": {},
        "proportions": [],
        "evidence": {},
    }
    if contender.error:
        return found
    try:
        measured = {name: _reading(final, objective, names) for name, final in finals.items()}
    except RunFailed as e:
        return found | {"error": f"{e}; a lower proxies.learning_rate helps."}
    final = finals["same_final"]
    changes = {name: asdict(final.change(f"bpb/{name}")) for name in names}
    worst = max(names, key=lambda name: changes[name]["mean"])
    shown = final.pairs[0][0]
    as_uniform = all(own.spec.id == uniform.spec.id for f in finals.values() for own, uniform in f.pairs)
    lost = len(final.own) - min(len(f.pairs) for f in finals.values())
    notes = found["notes"]
    if lost:
        notes.append(f"{lost} of {len(final.own)} pairs of final runs are left out: one of them diverged.")
    if as_uniform and contender.label != UNIFORM:
        notes.append("its answer is uniform's: the final runs are the same.")
    if found["adapts"] and (broken := _broken(finals, space)):
        notes.append(f"what it went through is not allowed: {'; '.join(broken)}.")
    return found | {
        **measured,
        "as_uniform": as_uniform,
        "worst_domain": {"name": worst, "change_percent": 100 * changes[worst]["mean"]},
        "changes": changes,
        "mixture": dict(shown.mixture),
        "proportions": _proportions(shown),
        "evidence": _evidence(shown),
    }


def order(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Best first, by the gain at the same total; uniform before its equals, those with an error at the end."""

    def place(found: Mapping[str, Any]) -> tuple[float, bool]:
        total = found["same_total"]
        return -total["gain"]["mean"] if total else math.inf, found["method"] != UNIFORM

    return sorted(rows, key=place)


def ranked(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that were measured, uniform among them, best first."""
    return [found for found in order(rows) if not found["error"]]


def policies(runs: Mapping[str, Sequence[RunRecord]]) -> list[dict[str, Any]]:
    """The runs of each method whose policy hears something: what `mixopt audit` can look at."""
    return [
        {"method": label, "run": record.spec.id, "seed": record.spec.seed, "tokens": record.spec.proxy.tokens}
        for label, records in runs.items()
        for record in records
        if record.spec.feed.needs
    ]


def leaderboard(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The few numbers that methods are compared by, best first; `seconds` of one worker, for the search and one final run."""
    return [_line(found) for found in order(rows)]


def _line(found: Mapping[str, Any]) -> dict[str, Any]:
    final, total = found["same_final"], found["same_total"]
    return {
        "method": found["method"],
        "gain_over_uniform": final and final["gain"]["mean"],
        "interval": final and [final["gain"]["low"], final["gain"]["high"]],
        "gain_same_total": total and total["gain"]["mean"],
        "interval_same_total": total and [total["gain"]["low"], total["gain"]["high"]],
        "worst_domain": found["worst_domain"],
        **cost(found),
        "error": found["error"],
    }


def cost(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a method took: tokens of its search and of its final run at the same total, and the seconds of both."""
    search, total = found["search"], found["same_total"] or {"tokens": None, "seconds": 0.0}
    return {
        "search_tokens": search["tokens"],
        "final_tokens": total["tokens"],
        "seconds": search["seconds"] + total["seconds"],
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The leaderboard as CSV: intervals and the worst domain in columns of their own."""
    lines = []
    for line in leaderboard(rows):
        low_high: dict[str, float | None] = {}
        for key in ("interval", "interval_same_total"):
            low_high |= dict(zip((f"{key}_low", f"{key}_high"), line.pop(key) or (None, None), strict=True))
        worst = line.pop("worst_domain") or {"name": None, "change_percent": None}
        lines.append(line | low_high | {"worst_domain": worst["name"], "worst_change_percent": worst["change_percent"]})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def verdict(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What the comparison says, for each reading; "same_total" is the honest one."""
    if not rivals(rows):
        return dict.fromkeys(READINGS, "No method could be compared with uniform.")
    starts = {"same_total": "At equal total cost", "same_final": "With the search for nothing"}
    return {reading: f"{starts[reading]} {_says(rows, reading)}" for reading in READINGS}


def rivals(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The methods that were measured and whose answer is not uniform's."""
    return [row for row in rows if not row["as_uniform"] and not row["error"]]


def clear(gain: Mapping[str, float]) -> bool:
    """Whether zero is outside of the interval."""
    return Interval(**gain).clear


def _says(rows: Sequence[Mapping[str, Any]], reading: str) -> str:
    """A sentence on one reading: who is shown to beat uniform, and whom that one is not shown to beat."""
    found = sorted(rivals(rows), key=lambda r: -r[reading]["gain"]["mean"])
    best = [r for r in found if clear(r[reading]["gain"]) and r[reading]["gain"]["mean"] > 0]
    if not best:
        first, worse = found[0][reading]["gain"], [r["method"] for r in found if clear(r[reading]["gain"])]
        said = f"no method is shown to beat uniform; {found[0]['method']} comes nearest, {_saves(first)}."
        return said + (f" Uniform beats {_listed(worse)}." if worse else "")
    level = [r["method"] for r in found if r is not best[0] and not _beats(best[0], r, reading)]
    said, others = (
        f"{best[0]['method']} beats uniform: {_saves(best[0][reading]['gain'])}",
        [r["method"] for r in best[1:]],
    )
    said += f"; so {'does' if len(others) == 1 else 'do'} {_listed(others)}." if others else "."
    return said + (f" It is not shown to beat {_listed(level, 'or')}." if level else "")


def _beats(one: Mapping[str, Any], other: Mapping[str, Any], reading: str) -> bool:
    ours, theirs = one[reading]["objective"], other[reading]["objective"]
    differences = [theirs[seed] - ours[seed] for seed in ours if seed in theirs]
    return len(differences) > 1 and Interval.paired(differences).low > 0


def _reading(final: Final, objective: Objective, names: Sequence[str]) -> dict[str, Any]:
    own = [record for record, _ in final.pairs]
    return {
        "tokens": final.tokens,
        "gain": asdict(final.difference(lambda record: objective.value(record.metrics))),
        "objective": {str(record.spec.seed): objective.value(record.metrics) for record in own},
        "metrics": {f"bpb/{name}": fmean(record.metrics[f"bpb/{name}"] for record in own) for name in names},
        "trained_tokens": round(fmean(record.cost.tokens for record in own)),
        "seconds": fmean(record.cost.seconds for record in own),
    }


def _broken(finals: Mapping[str, Final], space: MixtureSpace) -> list[str]:
    """What the first final run that is not allowed breaks: adapting is kept within epoch caps alone."""
    runs = (own for final in finals.values() for own, _ in final.pairs)
    return next(filter(None, (space.violations(own.mixture) for own in runs)), [])


def _proportions(record: RunRecord) -> list[list[Any]]:
    """[tokens seen, mixture] where each mixture ends; segments of one mixture are one."""
    found: list[list[Any]] = []
    seen = 0
    for segment in record.trace:
        seen += segment.tokens
        if found and found[-1][1] == dict(segment.mixture):
            found[-1][0] = seen
        else:
            found.append([seen, dict(segment.mixture)])
    return found


def _evidence(record: RunRecord) -> dict[str, float]:
    """What the policy tells of its run, and the part of its tokens that were trained beside it."""
    trained = record.cost.tokens
    beside = trained - sum(part.tokens for part in record.trace)
    return told(record.spec.feed, record.state) | ({"beside_share": beside / trained} if beside else {})


def _saves(gain: Mapping[str, float]) -> str:
    said = f"it {'saves' if gain['mean'] >= 0 else 'costs'} {abs(gain['mean']):.4f} bits per byte"
    return f"{said} ({LEVEL * 100:.0f} % interval {gain['low']:+.4f} to {gain['high']:+.4f} saved)"


def _listed(names: Sequence[str], last: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
