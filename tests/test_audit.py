"""A policy watched goes its own way; the audit of a search says how true its law is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixopt.errors import JobError
from mixopt.fidelity import similarity
from mixopt.job import load
from mixopt.methods import METHODS, ONLINE
from mixopt.mixture import FloatArray, Mixture, Segment
from mixopt.policies import POLICIES, from_json
from mixopt.policies.audited import Audited, State
from mixopt.policy import Drops, Feedback, Signal, Valid, knobs, plain, tuples
from mixopt.progress import Silent
from mixopt.runs import RunRecord, RunSpec
from mixopt.store import Store
from mixopt.study import Study
from pipelines.local_executor import LocalExecutor
from pipelines.search import run as search
from proxies.toy import Toy

Run = Callable[..., tuple[int, dict, str]]
TOTAL = 10_000
JOB = """
name: small
store: store
data:
  domains: {code: {path: code/*.txt}, law: {path: law/*.txt}, web: {path: web/*.txt}}
  tokenizer: bytes
target: {tokens: 300_000}
proxies: {size: 10k, tokens: 20_000, count: 8}
method: {name: follower}
compute: {workers: 0}
tracking: none
"""


@dataclass(frozen=True)
class Follower:
    """Trains in equal rounds, on more of what is still learnt badly: A is the diagonal of held-out losses."""

    rounds: int = 8
    eta: float = 0.3
    extra: Drops | None = None

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({Valid(), *([self.extra] if self.extra else [])})

    def init(self, names: Sequence[str], start: Feedback) -> tuple[Any, ...]:
        return tuple(names), 0, start.total, (1.0,) * len(names), ()

    def segment(self, state: tuple[Any, ...]) -> Segment:
        names, done, total, p, _ = state
        return Segment(
            Mixture.normalised(dict(zip(names, p, strict=True))), self._end(done, total) - self._end(done - 1, total)
        )

    def update(self, state: tuple[Any, ...], feedback: Feedback) -> tuple[Any, ...]:
        names, done, total, p, _ = state
        ended = {"drops"} if feedback.seen == feedback.total else set()  # nothing is probed after the last token
        assert set(feedback.signals) == {signal.name for signal in self.needs} - ended
        losses_D = feedback.signals["valid"]
        return names, done + 1, total, tuple((p * np.exp(self.eta * losses_D)).tolist()), tuple(losses_D.tolist())

    def matrix(self, state: tuple[Any, ...]) -> FloatArray | None:
        return np.diag(state[4]) if state[4] else None

    def load(self, body: Any) -> tuple[Any, ...]:
        return tuples(body)

    def to_json(self) -> dict[str, Any]:
        return {"policy": "follower", **knobs(self)}

    def _end(self, done: int, total: int) -> int:
        return round((done + 1) * total / self.rounds)


@dataclass(frozen=True)
class Linear(Toy):
    """A world in which the linear dynamic law is exact, and the same all along."""

    @property
    def A_DD(self) -> FloatArray:
        """Nats by which a whole run on one domain (column) lowers each loss (row)."""
        at = np.arange(len(self.names))
        return 0.1 + 0.5 * np.diag(at + 1.0) + 0.02 * np.outer(at, at)

    def losses_D(self, n_D: FloatArray) -> FloatArray:
        """From 5 nats down."""
        return 5 - self.A_DD @ n_D


def trained(study: Study, feed: Any, world: type[Toy] = Linear) -> RunRecord:
    (record,) = world(study.space.names)([RunSpec(feed, replace(study.proxy, tokens=TOTAL, checkpoints=5), 0)])
    return record


def watched(record: RunRecord) -> State[Any]:
    return record.spec.feed.load(json.loads(json.dumps(record.state, allow_nan=False)))


@pytest.mark.parametrize("world", [Toy, Linear])
def test_the_policy_goes_its_own_way(toy_study: Study, world: type[Toy]) -> None:
    alone = trained(toy_study, Follower(), world)
    seen = trained(toy_study, Audited(Follower(), (0.2, 0.5, 0.75), 0.02, 0.75), world)
    assert seen.trace == alone.trace
    assert seen.metrics == alone.metrics
    assert plain(watched(seen).inner) == plain(alone.state)
    assert seen.cost.tokens == alone.cost.tokens + 3 * 4 * 200


def test_sweeps_are_taken_where_a_segment_reaches_a_point(toy_study: Study) -> None:
    state = watched(trained(toy_study, Audited(Follower(), (0.2, 0.3, 0.5, 0.51), 0.02, 0.75)))
    assert [(sweep.at, sweep.seen) for sweep in state.sweeps] == [(0.2, 2500), (0.3, 3750), (0.5, 5000), (0.51, 6250)]
    assert [len(sweep.after) for sweep in state.sweeps] == [1, 1, 1, 1]
    both = watched(trained(toy_study, Audited(Follower(), (0.3, 0.31), 0.02, 0.75)))
    assert [(sweep.at, sweep.seen) for sweep in both.sweeps] == [(0.31, 3750)]


def test_what_is_measured_is_what_happened(toy_study: Study) -> None:
    record = trained(toy_study, Audited(Follower(), (0.25,), 0.12, 0.75))
    (sweep,) = watched(record).sweeps
    world = Linear(toy_study.space.names)
    mixtures = [segment.mixture.array(world.names) for segment in record.trace]
    losses_D = 5 - world.A_DD @ (mixtures[0] + mixtures[1]) / 8
    assert np.diag(np.array(sweep.matrix)) == pytest.approx(losses_D)  # A after the segment, not before it
    assert (sweep.seen, sweep.probe, sweep.weight) == (2500, 1200, 0.75)
    assert [stretch.tokens for stretch in sweep.after] == [1250]
    for stretch, p_D in zip(sweep.after, mixtures[2:], strict=False):
        assert stretch.mixture == pytest.approx(tuple(p_D))
        assert stretch.drops == pytest.approx(tuple(world.A_DD @ p_D / 8))


@dataclass(frozen=True)
class Uneven(Follower):
    """Rounds whose lengths take turns: seven parts, one part."""

    def _end(self, done: int, total: int) -> int:
        pairs, odd = divmod(done + 1, 2)
        return round((pairs + 0.875 * odd) * 2 * total / self.rounds)


def test_short_segments_wait_for_a_long_one_and_are_followed_for_a_probes_length(toy_study: Study) -> None:
    """Segments end at 2188, 2500, 4688, 5000, ...: the point 0.24 is due at 2500, but that segment is too short."""
    state = watched(trained(toy_study, Audited(Uneven(), (0.24, 0.45), 0.05, 0.75)))
    assert [(sweep.at, sweep.seen) for sweep in state.sweeps] == [(0.45, 4688)]
    assert [stretch.tokens for stretch in state.sweeps[0].after] == [312, 2188]


def test_a_sweep_without_room_is_left_out(toy_study: Study) -> None:
    state = watched(trained(toy_study, Audited(Follower(rounds=2), (0.4, 0.7), 0.02, 0.75)))
    assert [sweep.seen for sweep in state.sweeps] == [5000]


def test_a_policy_that_measures_drops_is_audited_with_its_own(toy_study: Study) -> None:
    own = Drops(0.05, 0.6)
    feed = Audited(Follower(extra=own), (0.5,), 0.02, 0.75)
    assert {signal for signal in feed.needs if signal.name == "drops"} == {own}
    (sweep,) = watched(trained(toy_study, feed)).sweeps
    assert (sweep.probe, sweep.weight) == (500, 0.6)


@pytest.mark.parametrize("body", [((0.5, 0.2), 0.1), ((), 0.1), ((0.0,), 0.1), ((1.0,), 0.1), ((0.5,), 0.0)])
def test_points_that_are_none_are_refused(body: tuple[Any, ...]) -> None:
    with pytest.raises(JobError, match="audit: "):
        Audited(Follower(), *body)


def test_probes_below_a_step_are_refused() -> None:
    start = Feedback(0, 1000, {"valid": np.ones(2)}, step=100)
    with pytest.raises(JobError, match="a probe of 0.05 of 1,000 tokens is less than a step of 100. Give at least 0.1"):
        Audited(Follower(), (0.5,), 0.05).init(("a", "b"), start)
    Audited(Follower(extra=Drops(0.05)), (0.5,), 0.05).init(("a", "b"), start)  # a step, for the policy itself too


def know(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let job files and records name the follower, as a method and as a policy."""
    monkeypatch.setitem(METHODS, "follower", Follower)
    monkeypatch.setitem(ONLINE, "follower", Follower)
    monkeypatch.setitem(POLICIES, "follower", lambda body: Follower(body["rounds"], body["eta"]))


def train_linearly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let searches and audits train in the linear world."""
    for module in ("search", "audit"):
        monkeypatch.setattr(
            f"pipelines.{module}.make_executor", lambda job, manifest: LocalExecutor(Linear(manifest.names))
        )


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch)


def job_file(texts: Path, folder: Path) -> Path:
    path = folder / "small.yaml"
    path.write_text(JOB.replace("store: store", f"store: {folder}/store").replace("path: ", f"path: {texts}/"))
    return path


@pytest.fixture(scope="module")
def once(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that followed a policy, and its store."""
    root = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as monkeypatch:
        know(monkeypatch)
        train_linearly(monkeypatch)
        search(load(job_file(texts, root)), root, root / "run", Silent())
    return root


@pytest.fixture
def searched(once: Path, known: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The run directory of that search, a copy for one test."""
    train_linearly(monkeypatch)
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "small.yaml", tmp_path / "run" / "results.json", tmp_path / "run" / "job.lock.yaml"):
        path.write_text(path.read_text().replace(str(once), str(tmp_path)))
    return tmp_path / "run"


def test_a_search_says_which_runs_followed_a_policy(searched: Path) -> None:
    results = json.loads((searched / "results.json").read_text())
    (run,) = results["policies"]
    assert (run["method"], run["seed"]) == ("follower", 0)
    assert list(Path(results["store"]).rglob(f"{run['run']}.json"))


def test_audit_of_a_search(mixopt: Run, searched: Path) -> None:
    """In a linear world A* is the world's A for a probe's length, and foretells every drop."""
    code, found, said = mixopt("audit", searched, "--points", 2, "--part", 0.05)
    assert code == 0
    assert json.loads((searched / "audit.json").read_text()) == found
    assert found["points"] == pytest.approx([1 / 3, 2 / 3])
    (row,) = found["methods"]
    (run,) = row["runs"]
    world = Linear(tuple(found["domains"]))
    for point in run["points"]:
        assert np.array(point["A_star"]) == pytest.approx(0.05 * world.A_DD)
        assert point["fidelity"] == pytest.approx(similarity(np.array(point["A"]), world.A_DD))
    assert row["fidelity_at"] == [point["fidelity"] for point in run["points"]]
    assert row["fidelity"] == pytest.approx(np.mean(row["fidelity_at"]))
    assert row["dynamic_r2"] == found["dynamic"]["r2"] == pytest.approx(1)
    assert found["dynamic"]["segments"] == 2
    gained = json.loads((searched / "results.json").read_text())["validation"]["differences"]["uniform"]["objective"]
    assert row["gain_over_uniform"] == gained["mean"]
    assert found["static"]["r2"] is None
    assert "the log-linear law needs" in found["static"]["why"]
    assert found["notes"] == []
    assert found["probe_tokens"] == 2 * 3 * round(0.05 * 8 * 20_000)
    assert (found["proxies_trained"], found["proxies_reused"]) == (1, 0)
    assert f"{row['fidelity']:.4f}" in said


def test_a_second_audit_trains_nothing(mixopt: Run, searched: Path) -> None:
    first, second = (mixopt("audit", searched, "--points", 2)[1] for _ in range(2))
    assert (second["proxies_trained"], second["proxies_reused"]) == (0, 1)
    assert {**first, **dict.fromkeys(("seconds", "proxies_trained", "proxies_reused"))} == {
        **second,
        **dict.fromkeys(("seconds", "proxies_trained", "proxies_reused")),
    }


def test_the_static_law_is_fitted_to_the_jobs_swarm(mixopt: Run, searched: Path, tmp_path: Path) -> None:
    other = ("--set", "method.name=olmix", "--out", tmp_path / "other")
    assert mixopt("search", tmp_path / "small.yaml", *other)[0] == 0
    static = mixopt("audit", searched)[1]["static"]
    assert (static["runs"], static["why"]) == (8, None)
    assert static["r2"] < static["r2_in_sample"] <= 1


def compared(searched: Path, **changes: Any) -> Path:
    """The directory as a comparison of several methods leaves it."""
    results = json.loads((searched / "results.json").read_text())
    gained = {"follower": {"gain": {"mean": 0.25}}, "uniform": None}
    rows = [{"method": method, "same_final": final} for method, final in gained.items()]
    body = {"policies": results["policies"], "rows": rows, "store": results["store"], **changes}
    (searched / "compare.json").write_text(json.dumps(body))
    return searched


def test_audit_of_a_comparison(mixopt: Run, searched: Path) -> None:
    code, found, said = mixopt("audit", compared(searched))
    assert code == 0
    follower, uniform = found["methods"]
    assert (follower["gain_over_uniform"], follower["why"]) == (0.25, None)
    assert (uniform["fidelity"], uniform["runs"]) == (None, [])
    assert uniform["why"].startswith("no linear dynamic law: its runs stay on the mixtures")
    assert f"uniform: {uniform['why']}" in said
    assert [row["method"] for row in mixopt("audit", searched, "--methods", "follower")[1]["methods"]] == ["follower"]


@dataclass(frozen=True)
class Hasty(Follower):
    """The same in short rounds."""

    rounds: int = 100


def with_hasty(searched: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, RunRecord]:
    """A comparison in which a second method has segments of a hundredth of its run."""
    monkeypatch.setitem(POLICIES, "hasty", lambda body: Hasty(body["rounds"], body["eta"]))
    monkeypatch.setattr(Hasty, "to_json", lambda self: {"policy": "hasty", **knobs(self)})
    results = json.loads((searched / "results.json").read_text())
    store, (own,) = Store(Path(results["store"])), results["policies"]
    spec = replace(store.find(own["run"]).spec, feed=Hasty())
    (record,) = Linear(tuple(spec.proxy.supply))([spec])
    store.add(record)
    return compared(searched, policies=[own, {**own, "method": "hasty", "run": spec.id}]), record


def test_probes_are_as_short_as_a_methods_segments(
    mixopt: Run, searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method of short segments is probed with what fits, and stops no other."""
    folder, record = with_hasty(searched, monkeypatch)
    found = mixopt("audit", folder)[1]
    follower, _, hasty = found["methods"]
    step = record.spec.proxy.batch * record.spec.proxy.sequence
    longest = max(segment.tokens for segment in record.trace) // step * step
    assert 0 < longest < 0.02 * record.spec.proxy.tokens
    assert [len(row["runs"][0]["points"]) for row in (follower, hasty)] == [3, 3]
    assert {point["probe"] for point in follower["runs"][0]["points"]} == {round(0.02 * record.spec.proxy.tokens)}
    assert {point["probe"] for point in hasty["runs"][0]["points"]} == {longest}
    (note,) = found["notes"]
    assert note.startswith("hasty: its probes train 0.00") and note.endswith(
        "of a run, not 0.02: no segment is longer."
    )


def test_a_part_that_was_given_is_not_lowered(mixopt: Run, searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = with_hasty(searched, monkeypatch)
    follower, _, hasty = mixopt("audit", folder, "--part", 0.02)[1]["methods"]
    assert follower["why"] is None and follower["fidelity"] is not None
    assert "is longer than hasty's longest segment" in hasty["why"]
    code, found, _ = mixopt("audit", folder, "--part", 0.02, "--methods", "hasty")
    assert code == 2 and "is longer than hasty's longest segment" in found["error"]


def test_a_policy_without_a_matrix_is_listed(mixopt: Run, searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Follower, "matrix")
    code, found, _ = mixopt("audit", searched)
    assert code == 0
    assert found["methods"][0]["why"] == "no linear dynamic law: the policy follower has no matrix A"
    assert found["dynamic"] == {"r2": None, "segments": 0}
    assert found["proxies_trained"] == 0


def test_another_way_is_said(mixopt: Run, searched: Path) -> None:
    results = json.loads((searched / "results.json").read_text())
    (path,) = Path(results["store"]).rglob(f"{results['policies'][0]['run']}.json")
    record = json.loads(path.read_text())
    record["metrics"]["bpb/code"] += 1e-9
    path.write_text(json.dumps(record))
    assert "took another way when watched" in mixopt("audit", searched)[1]["notes"][0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--part", 0.4), "--part: 0.4 of the run is no probe that fits between 3 points (above 0, below 0.25)"),
        (("--part", 0), "--part: 0 of the run is no probe"),
        (("--part", 1e-4), "is less than one step"),
        (("--part", 0.2), "is longer than follower's longest segment (20,000 tokens). Give at most 0.125"),
        (("--points", 0), "--points: must be at least 1"),
        (("--methods", "folower"), "--methods: 'folower' is not in"),
    ],
)
def test_what_cannot_be_asked(mixopt: Run, searched: Path, arguments: tuple[Any, ...], sentence: str) -> None:
    code, found, _ = mixopt("audit", searched, *arguments)
    assert code == 2
    assert sentence in found["error"]


def forget_runs(folder: Path, results: dict[str, Any]) -> None:
    for path in Path(results["store"]).rglob(f"{results['policies'][0]['run']}.json"):
        path.unlink()


def forget_policies(folder: Path, results: dict[str, Any]) -> None:
    (folder / "results.json").write_text(json.dumps({**results, "policies": []}))


def as_before_audits(folder: Path, results: dict[str, Any]) -> None:
    (folder / "results.json").write_text(json.dumps({k: v for k, v in results.items() if k != "policies"}))


def forget_results(folder: Path, results: dict[str, Any]) -> None:
    (folder / "results.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (forget_runs, "1 of 1 runs of"),
        (forget_policies, "no run of it followed a policy"),
        (as_before_audits, "are not what this version of a search writes (KeyError: 'policies')"),
        (forget_results, "has neither results.json nor compare.json"),
    ],
)
def test_a_directory_that_cannot_be_audited(
    mixopt: Run, searched: Path, spoil: Callable[[Path, Mapping[str, Any]], None], sentence: str
) -> None:
    spoil(searched, json.loads((searched / "results.json").read_text()))
    code, found, _ = mixopt("audit", searched)
    assert code == 2
    assert sentence in found["error"]
    assert not (searched / "audit.json").exists()


def test_audit_on_trained_proxies(known: None, mixopt: Run, texts: Path, tmp_path: Path) -> None:
    """The trainer takes the same way to the last bit when it is watched, and goes back after every probe."""
    job = job_file(texts, tmp_path)
    assert mixopt("search", job, "--set", "validate.seeds=0", "--out", tmp_path / "run")[0] == 0
    code, found, _ = mixopt("audit", tmp_path / "run", "--points", 2, "--part", 0.05)
    assert code == 0
    assert found["notes"] == []
    (row,) = found["methods"]
    assert len(row["runs"][0]["points"]) == 2
    assert -1 <= row["fidelity"] <= 1
    assert found["dynamic"]["segments"] == 2
    assert found["probe_tokens"] == sum(3 * point["probe"] for point in row["runs"][0]["points"])


def test_the_follower_survives_json(known: None) -> None:
    feed = Audited(Follower(), (0.25, 0.5), 0.02, 0.75)
    assert from_json(json.loads(json.dumps(feed.to_json()))) == feed
