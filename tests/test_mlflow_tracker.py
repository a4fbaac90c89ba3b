"""The mirror: what it shows, and that nothing which goes wrong there reaches the search."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mixopt.validate
from mixopt.domains import Domain
from mixopt.errors import DataError
from mixopt.mixture import Mixture
from mixopt.policy import Fixed
from mixopt.runs import Objective, Proxy, RunRecord, RunSpec
from mixopt.space import MixtureSpace
from mixopt.study import Study, Untracked
from pipelines.mlflow_tracker import (
    Mirror,
    MlflowTracker,
    Question,
    absolute,
    clean,
    deliver,
    fitting,
    make_tracker,
    screen,
    ship,
)
from pipelines.outbox import RECOMMENDED, Entry, Outbox, arm_entries, proxy_entry, search_entry, swarm_entry
from proxies.toy import Toy

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning:mlflow", "ignore::DeprecationWarning:mlflow")


def make_question(study: Study, corpus: str) -> Question:
    return Question("job", corpus, "0123456789abcdef", "regmix", 0, study.space, study.objective)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine MLflow alone takes 20 s to import."""
    monkeypatch.setattr("pipelines.mlflow_tracker.CLOSE_SECONDS", 120.0)


@pytest.fixture
def question(toy_study: Study, request: pytest.FixtureRequest) -> Question:
    """One experiment for each test."""
    return make_question(toy_study, request.node.name)


@pytest.fixture
def records(toy_study: Study, toy: Toy) -> list[RunRecord]:
    return list(toy(toy_study.specs(toy_study.space.dirichlet(5, np.random.default_rng(0)))))


@pytest.fixture
def results(toy_study: Study) -> dict[str, Any]:
    names = toy_study.space.names
    even = dict.fromkeys(names, 1 / len(names))

    def arm(value: float) -> dict[str, Any]:
        metrics = {metric: [value, value] for metric in toy_study.objective.metrics}
        return {"mixture": even, "objective": [value - 0.1, value + 0.1], "metrics": metrics}

    quality = {"spearman": 0.9, "mae": 0.01, "r2": None, "coverage90": 0.88}
    return {
        "name": "job",
        "method": "regmix",
        "law": "lightgbm",
        "seed": 0,
        "domains": [{"name": n, "tokens": 100, "prior": 0.25, "recommended": 0.25, "epochs": 1.0} for n in names],
        "target": {"tokens": 1000, "max_epochs": 4.0},
        "objective": {"weights": dict(toy_study.objective.weights)},
        "predicted": {"objective": 1.5, "interval": [1.4, 1.6], "metrics": {"bpb/a": 1.5}},
        "fit": {"law": "lightgbm", "runs": 40, "mean": quality, "mean_loss": quality},
        "validation": {
            "seeds": 2,
            "arms": {"recommended": arm(1.5), "prior": arm(1.75)},
            "gain_over_prior": {"mean": 0.25, "low": 0.2, "high": 0.3},
            "verdict": "Better than the prior.",
        },
        "cost": {"proxies_trained": 5, "proxies_reused": 0, "tokens": 5000, "flops": 1e9, "seconds": 2.0},
        "swarm": {"objective": [3.0, 2.0, 2.5], "best": 2.0, "failed": []},
    }


def numbers(entry: Entry) -> dict[str, float]:
    return {key: value for key, value, _ in entry.metrics}


# What is shown: no MLflow needed.


def test_a_proxy_shows_its_mixture_and_its_curve(question: Question, records: list[RunRecord]) -> None:
    proxy = replace(records[0].spec.proxy, tokens=4_000_000)
    spec = replace(records[0].spec, proxy=proxy)
    halfway = {**dict.fromkeys(records[0].metrics, 9.0), "loss/a": 5.0}
    record = replace(records[0], spec=spec, trajectory=((2_000_000, halfway), (4_000_000, records[0].metrics)))
    entry = proxy_entry(question, record)
    assert entry.key == spec.id
    assert {f"w.{name}" for name in "abcd"} < entry.params.keys()
    assert entry.params["w.a"] == f"{record.mixture['a']:.6g}"
    assert [(v, step) for k, v, step in entry.metrics if k == "obj/value"] == [
        (9.0, 2000),
        (question.objective.value(record.metrics), 4000),
    ]
    assert not any(key.startswith("loss/") for key in numbers(entry))
    assert numbers(entry)["mix/max_epochs"] == max(question.space.epochs(record.mixture).values())


def test_a_failed_proxy_shows_no_infinities(question: Question, records: list[RunRecord]) -> None:
    bad = {"bpb/a": math.inf, "bpb/b": math.nan, "bpb/c": 2.0}
    entry = proxy_entry(question, replace(records[0], metrics=bad, trace=(), trajectory=(), error="diverged: loss nan"))
    assert entry.error
    assert entry.tags["mixopt.failure"] == "diverged: loss nan"
    assert entry.params["w.a"] == f"{records[0].mixture['a']:.6g}"
    assert numbers(entry)["bpb/c"] == 2.0
    assert not numbers(entry).keys() & {"bpb/a", "bpb/b", "obj/value"}
    assert all(math.isfinite(value) for value in numbers(entry).values())


def test_the_answer_shows_what_methods_are_compared_by(question: Question, results: dict[str, Any]) -> None:
    entry = search_entry(question, results, ["../report.html"])
    assert [(step, value) for key, value, step in entry.metrics if key == "best/value"] == [
        (1, 3.0),
        (2, 2.0),
        (3, 2.0),
    ]
    shown = {
        "obj/value": 1.5,
        "obj/predicted": 1.5,
        "obj/gain_over_prior/low": 0.2,
        "fit/spearman": 0.9,
        "fit/runs": 40,
    }
    assert shown.items() <= numbers(entry).items()
    assert "fit/r2" not in numbers(entry)
    assert entry.params["target.tokens"] == "1000"
    assert "Better than the prior." in entry.tags["mlflow.note.content"]
    bare = search_entry(question, results | {"validation": None, "fit": None, "law": None, "swarm": None}, [])
    assert "law" not in bare.params
    assert bare.version != entry.version
    assert search_entry(question, results | {"cost": {"seconds": 9.0}}, []).version == entry.version


def test_one_measurement_of_a_baseline_is_one_run(question: Question, results: dict[str, Any]) -> None:
    ours, prior = arm_entries(question, results["validation"])
    other_ours, other_prior = arm_entries(replace(question, method="doremi"), results["validation"])
    assert (ours.name, prior.name) == ("validate/regmix-s0", "baseline/prior")
    assert prior.key == other_prior.key
    assert ours.key != other_ours.key
    assert RECOMMENDED == mixopt.validate.RECOMMENDED


def test_an_experiment_is_a_question(question: Question) -> None:
    doubled = Objective({metric: 2.0 for metric in question.objective.metrics})
    lone = Objective({"bpb/a": 3.0, "bpb/b": 0.0})
    assert replace(question, method="doremi", seed=1, name="x", objective=doubled).experiment == question.experiment
    assert replace(question, objective=lone).experiment == f"mixopt/{question.corpus}@01234567/bpb/a"


@pytest.mark.parametrize(
    "key", ["w.[a](b)#c,d%e=f|g@h", "a/../b", "a//b", "/a", "a/", "..", "", "a\n", "é" * 300, "\ud800"]
)
def test_odd_keys_become_allowed_ones(key: str) -> None:
    assert len(clean(key)) <= 250
    assert clean(clean(key)) == clean(key) != key
    assert clean(key + "x") != clean(key)


def test_plain_keys_and_texts_stay(question: Question) -> None:
    assert clean("bpb/web - Common Crawl: 2024_x.y") == "bpb/web - Common Crawl: 2024_x.y"
    assert fitting("x" * 7000, 6000).endswith("x…")
    assert fitting("a\0b\ud800", 10) == "ab?"


def test_silence() -> None:
    with closing(make_tracker(None, Path("nowhere"), None)) as tracker:  # type: ignore[arg-type]
        assert isinstance(tracker, Untracked)
        tracker.log(None)  # type: ignore[arg-type]
        tracker.conclude({})
    assert not Path("nowhere").exists()


# The outbox.


def test_the_outbox_survives_a_torn_line(tmp_path: Path, question: Question, records: list[RunRecord]) -> None:
    outbox = Outbox(tmp_path, "http://u:secret@h")
    first, second = swarm_entry(question), proxy_entry(question, records[0])
    outbox.append(first)
    with (tmp_path / "tracking/outbox.jsonl").open("a") as file:
        file.write('{"experiment": "torn')
    assert [entry.key for _, _, entry in outbox.read()] == ["swarm"]
    outbox.append(second)
    (_, end, _), (position, _, last) = list(outbox.read())
    assert json.dumps(last.metrics) == json.dumps(second.metrics)
    assert [p for p, _, _ in outbox.read(end)] == [position]
    outbox.mark(position)
    assert outbox.waiting() == 1
    assert (tmp_path / "tracking/address").stat().st_mode & 0o077 == 0
    assert Outbox(tmp_path).waiting() == 1
    assert Outbox(tmp_path, "http://elsewhere").waiting() == 2


def test_a_record_that_cannot_be_shown_is_a_sentence(
    tmp_path: Path, question: Question, records: list[RunRecord], caplog: pytest.LogCaptureFixture
) -> None:
    foreign = replace(records[0], trace=(), spec=replace(records[0].spec, feed=Fixed(Mixture({"x": 1.0}))))
    with closing(MlflowTracker("http://127.0.0.1:9", tmp_path, question)) as tracker:
        tracker.log(foreign)
        tracker.conclude({"domains": "none"})
    assert f"run {foreign.spec.id} is not mirrored (DataError" in caplog.text
    assert "the answer is not mirrored" in caplog.text


# MLflow itself, on one database.


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('a folder')}/mlflow.db"


@pytest.fixture(scope="module")
def client(uri: str) -> Iterator[Any]:
    """MLflow's own client, after the one migration."""
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "ERROR"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        client.search_experiments()
    yield client


@pytest.fixture
def mirror(uri: str, client: Any, tmp_path: Path) -> Mirror:
    return Mirror(uri, tmp_path)


def shown(client: Any, question: Question, **tags: str) -> list[Any]:
    """The runs in the experiment with these `mixopt.` tags."""
    experiment = client.get_experiment_by_name(question.experiment)
    chosen = " AND ".join(f"tags.`mixopt.{key}` = '{value}'" for key, value in tags.items())
    return list(client.search_runs([experiment.experiment_id], chosen)) if experiment else []


def test_limits_and_odd_names(client: Any, mirror: Mirror, tmp_path: Path) -> None:
    names = [f'part {i}, 100% [web] = "x"|#@ {"long" * (80 * (i == 0))}' for i in range(200)]
    proxy = Proxy("10k", 50_000, 64, 4, 0.01, 10, 64, {}, "toy")
    objective = Objective({f"bpb/{name}": 1.0 for name in names})
    space = MixtureSpace(tuple(Domain(name, 1000) for name in names), 1000)
    question = Question("job", "odd 'corpus' [%]", "f" * 16, "regmix", 0, space, objective)
    record = next(iter(Toy(space.names)([RunSpec(Fixed(space.prior_mixture), proxy, 0)])))
    record = replace(record, trajectory=tuple((5000 * i, record.metrics) for i in range(1, 11)))
    mirror.write(swarm_entry(question))
    mirror.write(replace(proxy_entry(question, record), tags={"mixopt.kind": "proxy", "mixopt.failure": "x" * 9000}))
    (run,) = shown(client, question, kind="proxy")
    (swarm,) = shown(client, question, kind="swarm")
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == swarm.info.run_id
    assert sum(key.startswith("bpb/") for key in run.data.metrics) == 200
    assert len(client.get_metric_history(run.info.run_id, clean(f"bpb/{names[0]}"))) == 10
    assert sum(key.startswith("w.") for key in run.data.params) == 20
    (table,) = client.list_artifacts(run.info.run_id, "tables")
    text = Path(client.download_artifacts(run.info.run_id, table.path, str(tmp_path))).read_text()
    assert len(text.splitlines()) == 201


def test_a_run_is_written_once_and_a_failed_one_is_replaced(
    client: Any, mirror: Mirror, question: Question, records: list[RunRecord]
) -> None:
    record = records[0]
    failed = proxy_entry(question, replace(record, metrics={}, trajectory=(), trace=(), error="out of memory"))
    mirror.write(failed)
    mirror.write(failed)
    (run,) = shown(client, question, run_id=record.spec.id)
    assert run.info.status == "FAILED"
    mirror.write(proxy_entry(question, record))
    (run,) = shown(client, question, run_id=record.spec.id)
    assert run.info.status == "FINISHED"
    assert "mixopt.failure" not in run.data.tags
    assert run.data.metrics["obj/value"] == question.objective.value(record.metrics)
    for entry in (failed, replace(proxy_entry(question, record), time=1)):
        mirror.write(entry)
        assert [r.info.run_id for r in shown(client, question)] == [run.info.run_id]


def test_a_half_written_run_is_completed(
    client: Any, mirror: Mirror, question: Question, records: list[RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = proxy_entry(question, records[0])
    monkeypatch.setattr("pipelines.mlflow_tracker.METRICS_PER_BATCH", 2)
    broken = replace(entry, metrics=[*entry.metrics, ("bpb/a", "not a number", 0)])  # type: ignore[list-item]
    with pytest.raises(Exception, match="not a number"):
        mirror.write(broken)
    (half,) = shown(client, question)
    assert half.info.status == "RUNNING"
    mirror.write(entry)
    (run,) = shown(client, question)
    assert (run.info.run_id, run.info.status) == (half.info.run_id, "FINISHED")
    assert len(client.get_metric_history(run.info.run_id, "obj/value")) == 1


def test_a_run_in_parts_goes_on_after_a_failure(client: Any, mirror: Mirror, question: Question) -> None:
    whole = Entry(experiment=question.experiment, key="full/a/1", name="full/a", tags=question.tags("full"), time=7)
    first = replace(whole, params={"model": "1m"}, metrics=[("loss", 3.0, 1), ("loss", 2.0, 2)], part="open")
    failed = replace(whole, error="killed", texts={"failure.txt": "killed"}, part="last")
    parts = [first, failed, replace(whole, metrics=[("loss", 1.0, 3)], part="open"), replace(whole, part="last")]
    states = []
    for entry in parts:
        for _ in range(2):  # a courier that died before it made its mark writes again
            mirror.write(entry)
        (run,) = shown(client, question, kind="full")
        states.append(run.info.status)
    assert states == ["RUNNING", "FAILED", "RUNNING", "FINISHED"]
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert run.data.params == {"model": "1m"}
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["failure.txt"]


def test_a_changed_answer_replaces_the_old_one(
    client: Any, mirror: Mirror, question: Question, results: dict[str, Any]
) -> None:
    mirror.write(search_entry(question, results, []))
    client.delete_experiment(client.get_experiment_by_name(question.experiment).experiment_id)
    mirror.write(search_entry(question, results | {"validation": None}, []))
    (run,) = shown(client, question, kind="search")
    assert "obj/value" not in run.data.metrics


def test_a_view_is_kept_with_the_experiment(uri: str, client: Any, question: Question, tmp_path: Path) -> None:
    (tmp_path / "tracking").mkdir()
    mirror = Mirror(uri, tmp_path / "tracking")
    view = {"key": "0123456789ab", "tags": {"mixopt.kind": "method"}, "order": "gain/x", "params": ("1 x", "2 y")}
    assert "filter" not in screen(uri, out=tmp_path).address
    assert screen(uri, out=tmp_path).filter
    mirror.write(replace(swarm_entry(question), view=view))
    for key, gain in (("low", -1.0), ("high", 1.0)):
        tags = question.tags("method")
        mirror.write(Entry(experiment=question.experiment, key=key, name=key, tags=tags, metrics=[("gain/x", gain, 0)]))
    experiment = client.get_experiment_by_name(question.experiment)
    state = json.loads(experiment.tags["mlflow.sharedViewState.0123456789ab"])
    order = [f"{state['orderByKey']} {'ASC' if state['orderByAsc'] else 'DESC'}"]
    found = client.search_runs([experiment.experiment_id], state["searchFilter"], order_by=order)
    assert [run.info.run_name for run in found] == ["high", "low"]
    assert state["selectedColumns"] == ["params.`1 x`", "params.`2 y`"]
    address = f"/#/experiments/{experiment.experiment_id}/runs?viewStateShareKey=0123456789ab"
    assert screen(uri, out=tmp_path).address == f"http://127.0.0.1:5000{address}"
    assert screen("https://host/", out=tmp_path) == ("", f"https://host{address}", "")


def test_a_refused_run_does_not_hold_up_the_others(
    client: Any, uri: str, question: Question, records: list[RunRecord], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    outbox = Outbox(tmp_path, uri)
    good, other = (proxy_entry(question, record) for record in records[:2])
    for entry in (replace(good, metrics=[("obj/value", "refuse me", 0)]), other):  # type: ignore[list-item]
        outbox.append(entry)
    deliver(tmp_path, follow=False)
    assert outbox.waiting() == 1
    assert [run.data.tags["mixopt.run_id"] for run in shown(client, question) if run.data.metrics] == [other.key]
    assert f"refused {good.name}" in caplog.text


# The whole way, through the child process.


def mirror_all(tracker: MlflowTracker, records: list[RunRecord], results: dict[str, Any]) -> None:
    for record in records:
        tracker.log(record)
    tracker.conclude(results)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from tests.conftest import toy_study
from tests.test_mlflow_tracker import MlflowTracker, Toy, make_question
study = toy_study.__wrapped__()
tracker = MlflowTracker(sys.argv[1], Path(sys.argv[2]), make_question(study, sys.argv[3]))
for record in Toy(study.space.names, 0.002)(study.specs(study.space.dirichlet(3, np.random.default_rng(0)))):
    tracker.log(record)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_search_killed_and_resumed_is_mirrored_once(
    client: Any, uri: str, question: Question, records: list[RunRecord], results: dict[str, Any], tmp_path: Path,
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "report.html").write_text("<html>")
    killed = subprocess.run([sys.executable, "-c", KILLED, uri, str(tmp_path), question.corpus], check=False)
    assert killed.returncode == -signal.SIGKILL
    for _ in range(2):  # the courier of the killed search is still at work
        began = time.monotonic()
        with closing(MlflowTracker(uri, tmp_path, question)) as tracker:
            mirror_all(tracker, records, results)
    assert time.monotonic() - began < 3, "nothing new: nothing to wait for"
    kinds = [run.data.tags["mixopt.kind"] for run in shown(client, question)]
    assert sorted(kinds) == ["baseline", *["proxy"] * 5, "search", "swarm", "validate"]
    (search,) = shown(client, question, kind="search")
    (swarm,) = shown(client, question, kind="swarm")
    assert search.data.tags["mixopt.swarm_run_id"] == swarm.info.run_id
    assert [file.path for file in client.list_artifacts(search.info.run_id)] == ["report.html"]
    assert ship(tmp_path) == 0
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def port() -> int:
    """One on which nobody listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture
def start_server(uri: str, client: Any, port: int, tmp_path: Path) -> Iterator[Any]:
    """Starts the comparison screen by the command that users get, and stops it."""
    started = []

    def start() -> None:
        command = shlex.split(screen(uri, port).command)
        with (tmp_path / "server.log").open("wb") as log:
            server = subprocess.Popen(["env", *command], cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
        started.append(server)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and server.poll() is None:
            try:
                urllib.request.urlopen(f"{screen(uri, port).address}/health", timeout=2).close()
                return
            except OSError:
                time.sleep(0.3)
        raise AssertionError((tmp_path / "server.log").read_text())

    yield start
    for server in started:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def ask(port: int, what: str, **body: Any) -> Any:
    """MLflow's REST API."""
    url, form = f"http://127.0.0.1:{port}/api/2.0/mlflow/{what}", {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), form), timeout=30) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_a_server_that_is_down_costs_seconds_and_no_run(
    start_server: Any, port: int, uri: str, client: Any, question: Question, records: list[RunRecord],
    results: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    (tmp_path / "report.html").write_text("<html>")
    tracker = MlflowTracker(f"http://user:secret@127.0.0.1:{port}", tmp_path, question)
    began = time.monotonic()
    mirror_all(tracker, records, results)
    assert time.monotonic() - began < 2
    tracker.close()
    assert "9 runs are not in MLflow" in caplog.text
    assert f"MLflow at http://127.0.0.1:{port} does not answer" in caplog.text
    assert "secret" not in caplog.text
    start_server()
    assert ship(tmp_path) == 9
    experiment = client.get_experiment_by_name(question.experiment).experiment_id
    runs = ask(port, "runs/search", experiment_ids=[experiment], filter=screen(uri).filter)["runs"]
    assert sorted(run["info"]["run_name"] for run in runs) == [
        "baseline/prior",
        "search/regmix-s0",
        "validate/regmix-s0",
    ]
    assert list((tmp_path / "mlartifacts").rglob("report.html"))


WITHOUT_MLFLOW = """
import sys
from contextlib import closing
sys.modules["mlflow"] = None
from pathlib import Path
import numpy as np
from tests.conftest import toy_study
from tests.test_mlflow_tracker import MlflowTracker, Outbox, Toy, make_question
study, out = toy_study.__wrapped__(), Path(sys.argv[1])
with closing(MlflowTracker(f"sqlite:///{out}/mlflow.db", out, make_question(study, "without"))) as tracker:
    for record in Toy(study.space.names)(study.specs(study.space.dirichlet(3, np.random.default_rng(0)))):
        tracker.log(record)
sys.stdout.write(f"{Outbox(out).waiting()} wait")
"""


def test_without_mlflow_a_sentence_and_the_search_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_MLFLOW, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "4 wait"
    (said,) = done.stderr.splitlines()
    assert "mlflow is not installed" in said


def test_a_courier_that_cannot_work_is_a_sentence(
    question: Question, records: list[RunRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow/__init__.py").write_text("raise ImportError('mlflow in pieces')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with closing(MlflowTracker(f"sqlite:///{tmp_path}/mlflow.db", tmp_path, question)) as tracker:
        tracker.log(records[0])
    assert "2 runs are not in MLflow" in caplog.text
    assert "mlflow in pieces" in caplog.text


def test_close_does_not_wait_for_ever(
    question: Question, records: list[RunRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    monkeypatch.setattr("pipelines.mlflow_tracker.CLOSE_SECONDS", 0.1)
    with closing(MlflowTracker("http://127.0.0.1:9", tmp_path, question)) as tracker:
        tracker.log(records[0])
        began = time.monotonic()
    assert time.monotonic() - began < 2
    assert "2 runs are not in MLflow (it took longer than 0.1 s). Nothing is lost" in caplog.text


def test_nothing_to_ship(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no outbox here"):
        ship(tmp_path)


def test_a_database_is_meant_from_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert absolute(f"sqlite:///{tmp_path}/mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert absolute("https://host") == "https://host"
    assert screen("https://host").command == ""
    assert (
        f"--backend-store-uri sqlite:///{tmp_path}/mlflow.db --host 127.0.0.1" in screen("sqlite:///mlflow.db").command
    )
