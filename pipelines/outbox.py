"""What a search leaves for a tracker to show: runs in plain data, waiting in a file of the run directory.

A tracker may be slow, broken or absent, so the search appends a line here and goes on. Nothing in this file knows
which tracker will show the runs. They are laid out like this:

    experiment  mixopt/<corpus>@<fingerprint>/<objective>   one for each question, so that methods can be compared
     ├─ swarm                        the parent of all proxies, whatever method asked for them
     │    └─ proxy/<id>              one training; step = tokens in thousands
     ├─ search/<method>-s<seed>      the answer; `best/value` by number of proxies spent
     ├─ validate/<method>-s<seed>    the answer as measured at the end
     ├─ baseline/<arm>               what it was measured against
     └─ full/<job>                   the real run on the answer, while it trains; step = tokens in thousands
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from mixopt.mixture import Mixture
from mixopt.policy import Fixed
from mixopt.runs import Objective, RunRecord
from mixopt.space import MixtureSpace

DOMAINS_AS_PARAMS, DOMAINS_SHOWN = 90, 20
FILES = ("job.lock.yaml", "mixture.json", "report.html", "ratios.csv", "metrics.csv")
RECOMMENDED = "recommended"  # the arm of mixopt.validate, whose import would cost every courier two seconds
SWARM = "swarm"
NOTE = "mlflow.note.content"
PARENT = "mlflow.parentRunId"


def digest(text: str) -> str:
    """A short name for this text, 12 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One run as a tracker shows it.

    `key` is unique in the `experiment`: the same key is the same run, written again only in another `version` or
    where it had failed. `time` is when it ended, in milliseconds, after `seconds`. `links` maps tags to the keys of
    the runs whose identifiers they take; `metrics` holds (key, value, step); `files` are relative to the outbox,
    `texts` are file contents by name. An `error` makes it a failed run. A `part` is added to what the run has: after an
    "open" one it goes on, even if it had failed, after the "last" it has ended. A `view` says how a table of the experiment's runs
    is to be looked at: `key` names it, it shows the runs with `tags`, `params` as columns, those with the largest metric
    `order` first.
    """

    experiment: str
    key: str
    name: str
    tags: Mapping[str, str]
    time: int = field(default_factory=lambda: round(time.time() * 1000))
    seconds: float = 0.0
    version: str = ""
    error: str = ""
    links: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Sequence[tuple[str, float, int]] = ()
    files: Sequence[str] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    view: Mapping[str, Any] = field(default_factory=dict)
    part: Literal["", "open", "last"] = ""


class Outbox:
    """The entries of the run directory `out`, and which of them have reached the tracker at `address`.

    An entry is known by its position in the file. Marks belong to an address: another tracker gets everything. The
    address is remembered for the next time, readable by its owner only, since it may hold a password.
    """

    def __init__(self, out: Path, address: str = "") -> None:
        self.out = out.resolve()
        self.folder = self.out / "tracking"
        self._entries = self.folder / "outbox.jsonl"
        remembered = self.folder / "address"
        if address:
            self.folder.mkdir(parents=True, exist_ok=True)
            remembered.touch(mode=0o600)
            remembered.write_text(address, encoding="utf-8")
        self.address = address or remembered.read_text(encoding="utf-8")
        self._marks = self.folder / f"delivered-{digest(self.address)}"

    def append(self, entry: Entry) -> None:
        """Put an entry at the end, on disk before this returns; a line torn by a crash stays a line of its own."""
        line = json.dumps(asdict(entry), allow_nan=False).encode() + b"\n"
        with self._entries.open("a+b") as file:
            if size := file.tell():
                file.seek(size - 1)
                line = line if file.read() == b"\n" else b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def read(self, start: int = 0) -> Iterator[tuple[int, int, Entry]]:
        """(position, next position, entry) from `start` on, without torn lines."""
        if not self._entries.exists():
            return
        with self._entries.open("rb") as file:
            file.seek(start)
            for line in file:
                position, start = start, start + len(line)
                if not line.endswith(b"\n"):
                    return
                try:
                    entry = Entry(**json.loads(line))
                except (ValueError, TypeError):  # torn, or of another version
                    continue
                yield position, start, entry

    def mark(self, position: int) -> None:
        """Remember that the entry at this position has been delivered."""
        with self._marks.open("a", encoding="ascii") as file:
            file.write(f"{position}\n")

    def delivered(self) -> set[int]:
        """Positions of the entries that have been delivered."""
        return {int(mark) for mark in self._marks.read_text().split()} if self._marks.exists() else set()

    def forget(self) -> None:
        """Take everything as not delivered."""
        self._marks.unlink(missing_ok=True)

    def waiting(self) -> int:
        """How many entries have not been delivered."""
        done = self.delivered()
        return sum(position not in done for position, _, _ in self.read())


@dataclass(frozen=True)
class Question:
    """What a search wants to know; `name` is the job's. Corpus, fingerprint and objective decide the experiment."""

    name: str
    corpus: str
    fingerprint: str
    method: str
    seed: int
    space: MixtureSpace
    objective: Objective

    @property
    def experiment(self) -> str:
        """The experiment's name."""
        return experiment_name(self.corpus, self.fingerprint, self.objective)

    @property
    def search(self) -> str:
        """The method and its seed, as in the names of runs."""
        return f"{self.method}-s{self.seed}"

    def tags(self, kind: str) -> dict[str, str]:
        """What all runs of this question carry."""
        return {"mixopt.kind": kind, "mixopt.corpus": self.corpus, "mixopt.fingerprint": self.fingerprint}


def experiment_name(corpus: str, fingerprint: str, objective: Objective) -> str:
    """The name of a question's experiment: a lone metric by its name, several by their number and a hash of their shares."""
    weights = dict(zip(objective.metrics, objective.weights_M.tolist(), strict=True))
    metrics = [metric for metric, weight in weights.items() if weight > 0]
    shares = [f"{metric}={weights[metric]:.6g}" for metric in metrics]
    what = metrics[0] if len(metrics) == 1 else f"mean-of-{len(metrics)}-{digest(' '.join(shares))[:6]}"
    return f"mixopt/{corpus}@{fingerprint[:8]}/{what}"


def swarm_entry(question: Question) -> Entry:
    """The parent of all proxies."""
    tags = question.tags("swarm")
    tags[NOTE] = "All proxies of this question, whatever method asked for them, failed ones too."
    return Entry(experiment=question.experiment, key=SWARM, name=SWARM, tags=tags)


def proxy_entry(question: Question, record: RunRecord) -> Entry:
    """One training of one proxy: every metric at every checkpoint but the losses, which are BPB in another unit."""
    spec, proxy = record.spec, record.spec.proxy
    final = numbers("cost", asdict(record.cost))
    params = {"size": proxy.size, "tokens": str(proxy.tokens), "seed": str(spec.seed)}
    params["policy"] = str(spec.feed.to_json()["policy"])
    texts: dict[str, str] = {}
    if mixture := _mixture(record):
        final |= mixture_shape(question.space, mixture)
        params |= mixture_params(mixture)
        texts = mixture_table(mixture)
    end = record.trajectory[-1][0] if record.trajectory else proxy.tokens
    curve = [*record.trajectory, (end, record.metrics), (end, final)]
    points = {(tokens // 1000, k): v for tokens, m in curve for k, v in _measured(question.objective, m).items()}
    return Entry(
        experiment=question.experiment,
        key=spec.id,
        name=f"proxy/{spec.id[:8]}",
        tags=question.tags("proxy") | ({"mixopt.failure": record.error} if record.error else {}),
        seconds=record.cost.seconds,
        error=record.error,
        links={PARENT: SWARM},
        params=params,
        metrics=[(key, value, step) for (step, key), value in points.items()],
        texts=texts,
    )


def search_entry(question: Question, results: Mapping[str, Any], files: Sequence[str]) -> Entry:
    """The answer, and the best proxy so far by the number of good proxies spent, in the order they were asked for."""
    mixture = Mixture.normalised({domain["name"]: domain["recommended"] for domain in results["domains"]})
    final = _findings(results) | mixture_shape(question.space, mixture)
    best = list(enumerate(accumulate((results.get("swarm") or {}).get("objective", ()), min), 1))
    found = {part: results.get(part) for part in ("domains", "predicted", "fit", "validation", "swarm")}
    proxy, target = results.get("proxy") or {}, results.get("target") or {}
    params = {"method": question.method, "seed": question.seed, "law": results.get("law")}
    params |= {key: proxy.get(key) for key in ("size", "tokens", "count")}
    params |= {f"target.{key}": value for key, value in target.items()}
    return Entry(
        experiment=question.experiment,
        key=f"search/{question.name}/{question.search}",
        name=f"search/{question.search}",
        version=digest(json.dumps(found, sort_keys=True)),
        tags=question.tags("search") | {"mixopt.job": question.name, NOTE: _note(results)},
        seconds=final.get("cost/seconds", 0.0),
        links={"mixopt.swarm_run_id": SWARM},
        params={key: str(value) for key, value in params.items() if value is not None} | mixture_params(mixture),
        metrics=[*(("best/value", v, n) for n, v in best), *((k, v, len(best)) for k, v in final.items())],
        files=files,
        texts=mixture_table(mixture),
    )


def arm_entries(question: Question, validation: Mapping[str, Any]) -> list[Entry]:
    """The answer and its baselines as measured; one measurement of a baseline is one run, whichever searches used it."""
    entries = []
    for arm, body in validation.get("arms", {}).items():
        ours = arm == RECOMMENDED
        version = digest(json.dumps(body, sort_keys=True))
        mixture = Mixture.normalised(body["mixture"])
        final = _arm(body) | mixture_shape(question.space, mixture)
        if ours:
            final |= numbers("obj/gain_over_prior", validation.get("gain_over_prior"))
        setting = {"size": validation.get("size"), "tokens": validation.get("tokens"), "runs": len(body["objective"])}
        entries.append(
            Entry(
                experiment=question.experiment,
                key=f"validate/{question.name}/{question.search}" if ours else f"baseline/{arm}/{version}",
                name=f"validate/{question.search}" if ours else f"baseline/{arm}",
                version=version,
                tags=question.tags("validate" if ours else "baseline"),
                params={key: str(value) for key, value in setting.items() if value is not None}
                | mixture_params(mixture),
                metrics=[(key, value, 0) for key, value in final.items()],
                texts=mixture_table(mixture),
            )
        )
    return entries


def answer_entries(question: Question, results: Mapping[str, Any]) -> list[Entry]:
    """What a search found: its answer with the report's files, and what was validated."""
    files = [f"../{name}" for name in FILES]
    return [search_entry(question, results, files), *arm_entries(question, results.get("validation") or {})]


def _findings(results: Mapping[str, Any]) -> dict[str, float]:
    fit, predicted, validation = (results.get(part) or {} for part in ("fit", "predicted", "validation"))
    low, high = predicted.get("interval") or (None, None)
    ours = validation.get("arms", {}).get(RECOMMENDED)
    return {
        **(_arm(ours) if ours else {}),
        **numbers("obj", {"predicted": predicted.get("objective"), "predicted_low": low, "predicted_high": high}),
        **numbers("obj/gain_over_prior", validation.get("gain_over_prior")),
        **numbers("predicted", predicted.get("metrics")),
        **numbers("fit", {"runs": fit.get("runs"), **(fit.get("mean") or {})}),
        **numbers("fit/mean_loss", fit.get("mean_loss")),
        **numbers("cost", results.get("cost")),
    }


def _arm(body: Mapping[str, Any]) -> dict[str, float]:
    means = {"obj/value": statistics.fmean(body["objective"])}
    return finite(means | {metric: statistics.fmean(values) for metric, values in body["metrics"].items()})


def _mixture(record: RunRecord) -> Mixture | None:
    if record.trace:
        return record.mixture
    return record.spec.feed.mixture if isinstance(record.spec.feed, Fixed) else None


def finite(values: Mapping[str, Any] | None) -> dict[str, float]:
    """The values that are finite numbers."""
    numbers = {k: v for k, v in (values or {}).items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {k: float(v) for k, v in numbers.items() if math.isfinite(v)}


def numbers(prefix: str, values: Mapping[str, Any] | None) -> dict[str, float]:
    """The finite ones, their keys below a prefix."""
    return {f"{prefix}/{key}": value for key, value in finite(values).items()}


def _measured(objective: Objective, metrics: Mapping[str, float]) -> dict[str, float]:
    known = finite(metrics)
    value = {"obj/value": objective.value(known)} if known.keys() >= set(objective.metrics) else {}
    return value | {key: value for key, value in known.items() if not key.startswith("loss/")}


def mixture_shape(space: MixtureSpace, mixture: Mixture) -> dict[str, float]:
    """How far from the prior a mixture is, how often it repeats domains, how many it uses."""
    prior = space.prior_mixture
    shape = {
        "max_epochs": max(space.epochs(mixture).values()),
        "effective_domains": mixture.effective_domains,
        "kl_prior": mixture.kl(prior),
        "l1_prior": math.fsum(abs(mixture[name] - prior[name]) for name in space.names),
        "zeros": sum(p == 0 for p in mixture.values()),
    }
    return numbers("mix", shape)


def mixture_params(mixture: Mixture) -> dict[str, str]:
    """Proportions as text: all of them, or the largest of very many."""
    largest = sorted(mixture.items(), key=lambda item: -item[1])
    return {f"w.{name}": f"{p:.6g}" for name, p in largest[: None if _fits(mixture) else DOMAINS_SHOWN]}


def mixture_table(mixture: Mixture) -> dict[str, str]:
    """Proportions as a file, where there are too many for parameters."""
    if _fits(mixture):
        return {}
    text = io.StringIO()
    csv.writer(text).writerows([("domain", "proportion"), *mixture.items()])
    return {"tables/mixture.csv": text.getvalue()}


def _fits(mixture: Mixture) -> bool:
    return len(mixture) <= DOMAINS_AS_PARAMS


def _note(results: Mapping[str, Any]) -> str:
    validation = results.get("validation") or {}
    domains = sorted(results["domains"], key=lambda domain: -domain["recommended"])
    rows = [f"| {d['name']} | {d['prior']:.4f} | {d['recommended']:.4f} | {d['epochs']:.2f} |" for d in domains]
    left = len(rows) - DOMAINS_SHOWN
    said = [
        f"**{results['name']}**: {results['method']}, law {results.get('law')}, seed {results['seed']}.",
        str(validation.get("verdict") or "Not validated: the gain is predicted, not measured."),
        "| domain | prior | recommended | epochs |\n| --- | --: | --: | --: |\n" + "\n".join(rows[:DOMAINS_SHOWN]),
        f"and {left} more in `tables/mixture.csv` or `ratios.csv`." if left > 0 else "",
    ]
    return "\n\n".join(said).strip()
