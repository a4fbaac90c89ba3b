"""Bad input of a full run: refused before any training, with the numbers."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from mixopt.domains import Manifest
from mixopt.errors import DataError, JobError
from pipelines.full import checks
from pipelines.full.course import LOCK, Course, Searched, refuse_other_answer, resolve
from pipelines.full.train import prepare

from .conftest import AIOLI, full

Make = Callable[..., Course]


def said(course: Course) -> str:
    with pytest.raises(JobError) as caught:
        checks.refuse(course)
    return str(caught.value)


def edited(run_dir: Path, **changes: object) -> Searched:
    path = run_dir / "mixture.json"
    body = json.loads(path.read_text()) | changes
    body.pop("mixture_id")
    path.write_text(json.dumps(body))
    return Searched.load(run_dir)


def test_a_good_run_passes(run_dir: Path) -> None:
    course = prepare(run_dir, full())
    assert course.steps == 16
    assert not (run_dir / "full").exists()  # checking leaves nothing behind


def test_no_search(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="holds no mixture.json. Give the run directory of a finished search."):
        prepare(tmp_path, full())


def test_domains_missing_in_the_store(run_dir: Path, course: Make) -> None:
    manifest = course().manifest
    smaller = Manifest(tuple(d for d in manifest.domains if d.name != "law"), manifest.tokenizer, manifest.root)
    shutil.copytree(manifest.root, run_dir / "less")
    Manifest(smaller.domains, smaller.tokenizer, run_dir / "less").save()
    with pytest.raises(DataError, match=r"draws law \(30 %\), which .*less does not hold. It has code, web."):
        prepare(run_dir, full(data={"manifest": str(run_dir / "less")}))


def test_a_domain_that_gets_nothing_may_be_missing_unless_a_policy_may_want_it(run_dir: Path, course: Make) -> None:
    manifest = course().manifest
    shutil.copytree(manifest.root, run_dir / "less")
    Manifest(tuple(d for d in manifest.domains if d.name != "law"), manifest.tokenizer, run_dir / "less").save()
    path = run_dir / "mixture.json"
    body = json.loads(path.read_text())
    weights = {"code": 0.6, "law": 0.0, "web": 0.4}
    body |= {"phases": [{"start_token": 0, "weights": weights}]}
    body["domains"] = [d | {"weight": weights[d["name"]]} for d in body["domains"]]
    del body["schedule"], body["mixture_id"]
    path.write_text(json.dumps(body))
    without = prepare(run_dir, full(data={"manifest": str(run_dir / "less")}))
    assert without.names == ("code", "web")
    assert without.mixture_id == Searched.load(run_dir).plan.id
    with pytest.raises(DataError, match=r"law \(0 %\)"):
        prepare(run_dir, full(data={"manifest": str(run_dir / "less")}, feed=AIOLI))


def test_no_text(run_dir: Path) -> None:
    with pytest.raises(DataError, match="The search's text is gone"):
        prepare(run_dir, full(data={"manifest": "nowhere"}))


def test_another_tokenizer(run_dir: Path, course: Make) -> None:
    own = course().manifest.tokenizer.fingerprint
    searched = edited(run_dir, tokenizer={"id": "file", "revision": "abc", "vocab_size": 50_304})
    with pytest.raises(DataError, match=f"vocabulary 257, fingerprint {own}; the mixture counts .* fingerprint abc"):
        resolve(searched, full())
    assert resolve(searched, full(data={"tokenizer": own})).manifest.tokenizer.fingerprint == own


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (
            {"launch": {"workers": 3, "device": "cpu"}, "micro_batch_tokens": 64},
            "batch_tokens: 512 tokens are 8 rows of 64, which 3 workers cannot share evenly. Use 384 or 576 tokens",
        ),
        ({"batch_tokens": 1000}, "batch_tokens: 1,000 tokens are not whole rows of 64."),
        ({"micro_batch_tokens": 100}, "micro_batch_tokens: 100 tokens are not whole rows of 64."),
        (
            {"micro_batch_tokens": 192},
            "micro_batch_tokens: 3 rows do not divide the 4 rows of each worker. Use one of 64, 128, 256.",
        ),
        ({"sequence": 50_000, "batch_tokens": 100_000}, "domain 'code' has no held-out shard of 50,001 tokens"),
        ({"launch": {"workers": 2, "device": "cuda", "by": "torchrun"}}, "torch sees no GPU on this machine"),
        ({"checkpoint": {"folder": "s3://bucket/run"}}, "s3://bucket/run is an address; mount it"),
        ({"checkpoint": {"folder": "/proc/nothing"}}, "checkpoint.folder: /proc/nothing cannot be written"),
    ],
)
def test_refused(course: Make, monkeypatch: pytest.MonkeyPatch, changes: dict, part: str) -> None:
    monkeypatch.setattr(checks, "gpus", lambda: 0)
    assert part in said(course(**changes))


def test_all_problems_at_once(course: Make) -> None:
    text = said(course(micro_batch_tokens=192, checkpoint={"folder": "/proc/nothing"}))
    assert "2 problems" in text
    assert "/proc/nothing" in text
    assert "3 rows do not divide" in text


def test_a_domain_that_is_read_too_often(course: Make) -> None:
    run = course(tokens=1_000_000)
    there = run.store.blocks("law") * 64
    text = said(run)
    assert f"domain 'law': 20 % of {run.tokens:,} tokens are" in text
    assert f"{run.tokens * 0.2 / there:.3g} epochs of the {there:,}" in text
    assert "max_epochs is 4" in text
    checks.refuse(course(tokens=1_000_000, max_epochs=100.0))


def test_a_schedule_counts_as_a_whole(course: Make) -> None:
    assert "domain 'law'" in said(course(tokens=1_000_000, feed="schedule"))


def test_text_that_is_not_enough_for_a_policy(course: Make) -> None:
    assert "epochs" in said(course(tokens=10_000_000, feed=AIOLI))
    checks.refuse(course(tokens=400_000, feed=AIOLI))  # kept within the caps on its way


def test_a_policy_that_does_not_fit_into_the_run(course: Make) -> None:
    text = said(course(feed={"policy": "aioli", "rounds": 20}))
    assert "feed.probe_share: 0.3 of a round" in text


def test_a_disk_too_small_for_the_checkpoints(course: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    run = course()
    each = 12 * run.parameters
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 3 * each - 1))
    text = said(run)
    assert f"A checkpoint of {run.parameters:,} parameters takes 0.0 GB, and there are 3 more at a time" in text
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 3 * each))
    checks.refuse(run)


def test_another_mixture_than_that_of_the_checkpoint(run_dir: Path, course: Make) -> None:
    run = course()
    (run.checkpoints / "step4").mkdir(parents=True)
    (run.folder / LOCK).write_text(run.lock())
    refuse_other_answer(run)
    (run.checkpoints / "step4" / ".metadata.json").write_text("{}")
    refuse_other_answer(run)
    searched = edited(run_dir, target_tokens=70_000)
    with pytest.raises(JobError, match="mixture.json changed since this run began"):
        refuse_other_answer(resolve(searched, full()))
