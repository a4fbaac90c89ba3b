"""`mixopt feedback` on what a search wrote: what it finds, records and refuses, and the next search, which uses it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mixopt import handoff
from mixopt.job import load
from mixopt.progress import Silent
from pipelines import search

Run = Callable[..., tuple[int, dict, str]]
JOB = """
name: planned
store: {root}/store
data:
  domains:
    code: {{path: "{texts}/code/*.txt"}}
    law: {{path: "{texts}/law/*.txt"}}
    web: {{path: "{texts}/web/*.txt"}}
  tokenizer: bytes
  validation: {{fraction: 0.2}}
target: {{tokens: 65_536, parameters: 1_055_360, max_epochs: 4, sequence: 64}}
proxies: {{size: 10k, tokens: 5_000, count: 12}}
method: {{name: regmix, law: effdata, candidates: 500, keep: 8}}
compute: {{workers: 0}}
tracking: none
validate: {{seeds: 0}}
"""


@pytest.fixture(scope="module")
def done(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a search has run: its job, store and run directory; nobody may write in it."""
    root = tmp_path_factory.mktemp("feedback")
    (root / "job.yaml").write_text(JOB.format(root=root, texts=texts))
    search.run(load(root / "job.yaml"), root, root / "run", Silent())
    return root


@pytest.fixture
def run_dir(done: Path, tmp_path: Path) -> Path:
    """A copy of the run directory with a store of its own."""
    shutil.copytree(done / "store", tmp_path / "store")
    shutil.copytree(done / "run", tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    (tmp_path / "run" / "results.json").write_text(json.dumps(results | {"store": str(tmp_path / "store")}))
    return tmp_path / "run"


def metrics(run_dir: Path, lower: float, **by: float) -> dict[str, float]:
    """What was predicted of the recommendation, so much lower, and in some domains lower still."""
    predicted = json.loads((run_dir / "results.json").read_text())["predicted"]["metrics"]
    return {metric: value - lower - by.get(metric[4:], 0.0) for metric, value in predicted.items()}


def trained(run_dir: Path, **changes: Any) -> Path:
    """The record of a full run on the recommendation, with other values for some keys."""
    plan = handoff.load(run_dir / "mixture.json")
    mixture = dict(plan.mixture)
    body = {
        "schema": "mixopt.full/v1",
        "mixture_id": plan.id,
        "model": "1m",
        "parameters": 1_055_360,
        "tokens": 65_536,
        "metrics": metrics(run_dir, 0.5) | {"loss/web": 2.0},
        "trace": [[0, mixture]],
        "drawn": {name: round(65_536 * share) for name, share in mixture.items()},
    }
    path = run_dir / "full" / "record.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(body | changes))
    return path


def elsewhere(run_dir: Path, mixture: Mapping[str, float], lower: float, **by: float) -> Path:
    """A full run of another stack on another mixture."""
    body = {
        "parameters": 1_055_360,
        "tokens": 65_536,
        "metrics": metrics(run_dir, lower, **by),
        "mixture": dict(mixture),
    }
    path = run_dir.parent / "other.json"
    path.write_text(json.dumps([body]))
    return path


PRIOR = {"code": 0.2, "law": 0.2, "web": 0.6}


def test_one_run_is_recorded_once_and_shown(mixopt: Run, run_dir: Path) -> None:
    trained(run_dir)
    code, found, seen = mixopt("feedback", run_dir)
    assert (code, found["verdict"]["held"], found["next"]["used"]) == (0, None, False)
    assert found["step"]["objective"]["change"] == pytest.approx(-0.5)
    assert [path.stem for path in (run_dir.parent / "store" / "transfers").iterdir()] == found["recorded"]
    assert json.loads((run_dir / "feedback.json").read_text()) == found
    assert "bpb/web" in seen and "Whether the prediction holds is not known" in seen
    report = (run_dir / "report.md").read_text()
    assert "## The full run" in report and found["verdict"]["says"] in report
    _, again, _ = mixopt("feedback", run_dir)
    assert again == found | {"recorded": []}


def test_two_runs_judge_the_gain_and_move_the_next_search(mixopt: Run, run_dir: Path, texts: Path) -> None:
    trained(run_dir)
    other = elsewhere(run_dir, PRIOR, 0.7, law=0.3)  # the other mixture, which has more law, is much better there
    code, found, seen = mixopt("feedback", run_dir, "--metrics", other)
    assert code == 0
    assert found["verdict"]["held"] is False
    assert found["gains"][0]["measured"] == pytest.approx(-0.3)
    assert "The prediction did not hold" in seen
    assert found["next"]["used"] and len(found["next"]["runs"]) == 2
    before, root = handoff.load(run_dir / "mixture.json").mixture, run_dir.parent
    (root / "job.yaml").write_text(JOB.format(root=root, texts=texts))
    results = search.run(load(root / "job.yaml"), root, root / "next", Silent())
    assert results["cost"]["proxies_trained"] == 0
    after = handoff.load(root / "next" / "mixture.json").mixture
    assert results["transfer"]["runs"] == found["next"]["runs"]
    assert any("moved this answer" in note for note in results["notes"])
    assert sum(abs(after[name] - PRIOR[name]) for name in after) < sum(
        abs(before[name] - PRIOR[name]) for name in before
    )
    assert dict(after) == pytest.approx(found["next"]["mixture"], abs=0.02)
    trained(root / "next", metrics=metrics(run_dir, 0.6))
    _, judged, _ = mixopt("feedback", root / "next")
    assert judged["step"]["this_scale"] is True


def test_a_schedule_led_run_is_compared_with_no_other(mixopt: Run, run_dir: Path) -> None:
    mixture = dict(handoff.load(run_dir / "mixture.json").mixture)
    trained(run_dir, trace=[[0, mixture], [30_000, PRIOR]])
    _, found, _ = mixopt("feedback", run_dir, "--metrics", elsewhere(run_dir, PRIOR, 0.4))
    assert found["run"]["fixed"] is False
    assert found["gains"] == [] and "mixture changed" in found["verdict"]["says"]


def test_nothing_trained_or_not_to_its_end(mixopt: Run, run_dir: Path) -> None:
    code, found, _ = mixopt("feedback", run_dir)
    assert code == 2 and "there is no full run here. Train one, `mixopt train" in found["error"]
    (run_dir / "full").mkdir()
    events = [
        {"kind": "start", "step": 0, "tokens": 0, "target_tokens": 65_536},
        {"kind": "step", "step": 24, "tokens": 12_288},
    ]
    (run_dir / "full" / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    code, found, _ = mixopt("feedback", run_dir)
    assert code == 2 and "is not finished, 12,288 of 65,536 tokens" in found["error"]
    assert not (run_dir / "feedback.json").exists()


BPB = {"bpb/code": 1.0, "bpb/law": 1.0, "bpb/web": 1.0}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"mixture_id": "0123"}, "the run trained mixture 0123, mixture.json recommends"),
        ({"schema": "mixopt.full/v9"}, "unknown schema 'mixopt.full/v9'"),
        ({"metrics": {"bpb/code": 1.0, "bpb/law": 1.0}}, "no bpb/web. Every domain"),
        ({"metrics": {"bpb/code": 1.0, "bpb/law": 1.0, "loss/web": 1.0}}, "divide a document set's nats by ln 2"),
        ({"metrics": BPB | {"bpb/wen": 1.0}}, "did you mean 'web'?"),
        ({"metrics": BPB | {"bpb/web": 0.0}}, "bpb/web must be a positive number"),
        ({"tokens": -1}, "needs tokens, a positive whole number (got -1)"),
        ({"trace": [[0, {"code": 1.0}]]}, "the mixture cannot be used"),
        ({"trace": [], "drawn": {}}, "neither trace nor drawn says which mixture"),
    ],
)
def test_what_does_not_compare_is_refused(mixopt: Run, run_dir: Path, changes: dict[str, Any], part: str) -> None:
    trained(run_dir, **changes)
    code, found, _ = mixopt("feedback", run_dir)
    assert code != 0 and part in found["error"]
    assert not (run_dir.parent / "store" / "transfers").exists()


def test_other_text_and_unknown_keys_are_refused(mixopt: Run, run_dir: Path) -> None:
    record = trained(run_dir)
    lock = record.parent / "full.lock.yaml"
    lock.write_text("model: 1m\nderived: {mixture_id: x, data: other}\n")
    code, found, _ = mixopt("feedback", run_dir)
    assert code != 0 and "was measured on other text (other)" in found["error"]
    lock.unlink()
    (run_dir.parent / "bad.json").write_text(json.dumps({"parameter": 1}))
    code, found, _ = mixopt("feedback", run_dir, "--metrics", run_dir.parent / "bad.json")
    assert code != 0 and "unknown key 'parameter'; did you mean 'parameters'?" in found["error"]
    (run_dir.parent / "bad.json").write_text("[1]")
    code, found, _ = mixopt("feedback", run_dir, "--metrics", run_dir.parent / "bad.json")
    assert code != 0 and "bad.json, run 0: must be an object" in found["error"]


def test_a_directory_without_a_search(mixopt: Run, tmp_path: Path) -> None:
    code, found, _ = mixopt("feedback", tmp_path)
    assert code == 2 and "Is this the run directory of a finished search?" in found["error"]
