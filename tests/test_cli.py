"""The command line as a user meets it: one real search, every command on its results, and every kind of bad input."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mixopt.handoff import load_mixture
from mixopt.scale_laws import SCALE_LAWS
from mixopt.tables import read_swarm

Run = Callable[..., tuple[int, dict, str]]


def text_of(seed: int, words: int) -> str:
    rng = np.random.default_rng(seed)
    vocabulary = ["".join(rng.choice(list("abcdefghij"), 4)) for _ in range(15)]
    return " ".join(rng.choice(vocabulary, words))


@pytest.fixture(scope="module")
def corpus_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three domains of generated text in three formats, uneven in size."""
    root = tmp_path_factory.mktemp("texts")
    documents = {name: [text_of(100 * i + j, 300) for j in range(n)] for i, (name, n) in enumerate(SIZES.items())}
    lines = "".join(json.dumps({"text": t}) + "\n" for t in documents["alpha"])
    (root / "alpha.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (root / "no").mkdir()
    for j, text in enumerate(documents["no"]):
        (root / "no" / f"{j:03}.txt").write_text(text)
    pd.DataFrame({"content": documents["gamma"]}).to_parquet(root / "gamma.parquet")
    return root


SIZES = {"alpha": 120, "no": 40, "gamma": 60}
JOB = """
name: small
store: store
data:
  domains:
    alpha: {path: "*.jsonl.gz"}
    no: {path: no/*.txt}
    gamma: {path: gamma.parquet, text: content}
  tokenizer: bytes
target: {tokens: 300_000, max_epochs: 4}
proxies: {size: 10k, tokens: 20_000, count: 12}
method: {name: olmix}
compute: {workers: 0}
tracking: none
export: [megatron, olmo-core, hf-datasets, streaming]
"""


def write_job(root: Path, text: str = JOB, name: str = "small.yaml") -> Path:
    path = root / name
    path.write_text(text.replace("store: store", f"store: {root}/store"))
    return path


@pytest.fixture(scope="module")
def searched(corpus_root: Path) -> Path:
    """The run directory of one real search."""
    from mixopt.job import load
    from mixopt.progress import Silent
    from pipelines.search import run

    out = corpus_root / "run"
    run(load(write_job(corpus_root)), corpus_root, out, Silent())
    return out


def test_search_again_trains_nothing_and_says_the_same(mixopt: Run, corpus_root: Path, searched: Path) -> None:
    before = json.loads((searched / "results.json").read_text())
    code, found, seen = mixopt("search", corpus_root / "small.yaml", "--out", searched)
    assert code == 0
    assert found["run_dir"] == str(searched)
    assert (found["proxies_trained"], found["proxies_reused"]) == (0, 12 + 4 * 3)
    assert found["recommendation"] == {row["name"]: row["recommended"] for row in before["domains"]}
    assert found["validated"]["gain_over_prior"] == before["validation"]["gain_over_prior"]["mean"]
    assert found["validated"]["seeds"] == 3
    assert set(found["predicted"]) == {"objective", "interval"}
    assert "recommended" in seen


def test_another_method_reuses_the_swarm(mixopt: Run, corpus_root: Path, searched: Path) -> None:
    job = corpus_root / "small.yaml"
    arguments = ("--set", "method.name=regmix", "--set", "method.law=linear", "--set", "proxies.count=12")
    code, found, _ = mixopt("search", job, *arguments, "--out", corpus_root / "other")
    assert code == 0
    assert found["method"] == "regmix"
    assert found["proxies_reused"] >= 12
    assert found["proxies_trained"] <= 2 * 3  # two arms may differ: the recommendation and nothing else


def test_run_directory_is_whole(searched: Path) -> None:
    names = {p.name for p in searched.iterdir()}
    assert {
        "mixture.json",
        "ratios.csv",
        "metrics.csv",
        "report.html",
        "report.md",
        "results.json",
        "job.lock.yaml",
    } <= names
    assert not [p for p in searched.rglob("*") if p.name.startswith(".") or p.name.endswith(".tmp")]
    mixture = load_mixture(searched / "mixture.json")
    assert set(mixture) == set(SIZES)
    table = read_swarm(searched / "ratios.csv", searched / "metrics.csv")
    assert table.X_RD.shape == (12, 3)


def test_results_can_be_fitted_proposed_and_predicted(mixopt: Run, searched: Path, tmp_path: Path) -> None:
    swarm = ("--ratios", searched / "ratios.csv", "--metrics", searched / "metrics.csv")
    code, fit, _ = mixopt("fit", *swarm, "--target", "all", "--law", "loglinear")
    assert code == 0
    assert set(fit["targets"]) == {f"bpb/{name}" for name in SIZES}
    assert set(fit["mean"]) == set(fit["mean_loss"]) == {"spearman", "mae", "r2", "coverage90"}
    assert (fit["law"], fit["runs"]) == ("loglinear", 12)
    (tmp_path / "domains.csv").write_text("domain,tokens\nalpha,100\nno,100\ngamma,100\n")
    target = ("--domains", tmp_path / "domains.csv", "--target-tokens", "6_00", "--max-epochs", 3)
    code, found, said = mixopt("propose", *swarm, "--target", "mean", "--law", "loglinear", *target)
    assert code == 0
    assert "90 % interval" in said
    assert "of the objective against the prior" in said
    assert sum(found["mixture"].values()) == pytest.approx(1)
    assert max(found["epochs"].values()) <= 3 + 1e-6
    assert 1 <= found["effective_domains"] <= 3
    known = found["uncertainty"]
    assert set(known["proportions"]) == set(known["region"]["ranges"]) == set(found["mixture"])
    assert known["gain"]["low"] <= known["gain"]["high"]
    for name, (low, high) in known["region"]["ranges"].items():
        assert low - 1e-9 <= found["mixture"][name] <= high + 1e-9
    guarded = (*target, "--floor", "gamma=0.001", "--trust-kl", 0.3)
    code, kept, _ = mixopt("propose", *swarm, "--target", "bpb/alpha", "--law", "loglinear", *guarded)
    assert (code, kept["how"]) == (0, "exact")
    assert kept["kl_to_prior"] <= 0.3
    assert [floor["metric"] for floor in kept["floors"]] == ["bpb/gamma"]
    assert kept["floors"][0]["predicted"] <= kept["floors"][0]["limit"] * (1 + 1e-6)
    assert mixopt("propose", *swarm, *target, "--floor", "gama=0.001")[0] == 2
    (tmp_path / "m.json").write_text(json.dumps(found["mixture"]))
    code, predicted, _ = mixopt("predict", *swarm, "--law", "loglinear", "--mixture", tmp_path / "m.json")
    assert code == 0
    assert predicted["predicted"]["objective"] == pytest.approx(found["predicted"]["objective"])


def test_fit_on_test_files_says_coverage(mixopt: Run, searched: Path) -> None:
    swarm = ("--ratios", searched / "ratios.csv", "--metrics", searched / "metrics.csv")
    test = ("--test-ratios", searched / "ratios.csv", "--test-metrics", searched / "metrics.csv")
    code, found, _ = mixopt("fit", *swarm, *test, "--target", "mean")
    assert code == 0
    assert list(found["targets"]) == ["mean"]
    assert found["targets"]["mean"]["coverage90"] >= 0.9


def test_export_and_report(mixopt: Run, searched: Path, tmp_path: Path) -> None:
    code, found, _ = mixopt("export", searched, "--to", "megatron,olmo-core,hf-datasets,streaming", "--out", tmp_path)
    assert code == 0
    assert set(found["files"]) == set(found["max_deviation"]) == {"megatron", "olmo-core", "hf-datasets", "streaming"}
    assert all(Path(f).exists() for files in found["files"].values() for f in files)
    assert max(found["max_deviation"].values()) < 4096 / 300_000  # one row of the target's tokens
    code, found, _ = mixopt("export", searched, "--to", "all", "--tail", "pool", "--out", tmp_path)
    assert code == 0
    listed = mixopt("backends")[1]
    assert sorted([*found["files"], *found["refused"]]) == sorted(listed)
    assert {name: row["unit"] for name, row in listed.items()} == found["unit"]
    assert set(found["absent"]) == set(found["epochs"]) == set(found["lines"]) == set(found["files"])
    assert "holds no schedule" in mixopt("export", searched, "--to", "all", "--schedule")[1]["error"]
    page = (searched / "report.html").read_bytes()
    code, found, _ = mixopt("report", searched)
    assert code == 0
    assert (searched / "report.html").read_bytes() == page


def test_who_cannot_follow_a_schedule_is_listed_with_the_reason(mixopt: Run, tmp_path: Path) -> None:
    domains = [{"name": name, "weight": 0.5, "available_tokens": 10**9} for name in ("code", "web")]
    phases = [
        {"start_token": 10**9 * k, "weights": {"code": code, "web": 1 - code}} for k, code in enumerate((0.25, 0.75))
    ]
    body = {"schema": "mixopt.mixture/v1", "unit": "tokens", "target_tokens": 2 * 10**9, "domains": domains}
    body |= {"phases": [{"start_token": 0, "weights": {"code": 0.5, "web": 0.5}}], "schedule": phases}
    (tmp_path / "mixture.json").write_text(json.dumps(body))
    code, found, shown = mixopt("export", tmp_path, "--to", "all", "--schedule")
    assert code == 0
    assert {"megatron", "nanotron"} <= set(found["files"])
    assert found["refused"]["nemo"].startswith("a data module has one blend, this plan has 2 phases.")
    assert "refused by" in shown
    assert "a data module has one blend" in " ".join(shown.split())
    code, found, _ = mixopt("export", tmp_path, "--to", "megatron,nemo", "--schedule")
    assert code == 2
    assert found["error"].startswith("nemo: a data module has one blend")


def test_dry_run_has_no_side_effects(
    mixopt: Run, corpus_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = write_job(corpus_root, JOB.replace("store: store", f"store: {tmp_path}/new"), "dry.yaml")
    code, found, _ = mixopt("search", job, "--dry-run")
    assert code == 0
    assert found["proxies"] == 12
    assert found["validation_runs"] == 4 * 3
    assert found["tokens"] == 24 * 20_000
    assert found["flops"] > 6 * 12_000 * found["tokens"]
    assert found["seconds"] > 0
    assert found["job"]["proxies"]["checkpoints"] == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("path: gamma.parquet", "path: delta.parquet"), "no file matches"),
        (("count: 12", "count: 3"), "proxies.count: 3 runs cannot determine the law"),
        (("compute: {workers: 0}", 'compute: {device: "cuda:99"}'), "compute.device: cuda:99 is not there"),
        (('.gz"}', '.gz", tokens: 9}'), "no mixture is allowed"),
    ],
)
def test_dry_run_refuses_what_a_search_would(
    mixopt: Run, corpus_root: Path, change: tuple[str, str], sentence: str
) -> None:
    text = JOB.replace(*change)
    assert text != JOB
    if "tokens: 9" in text:  # caps are known before any text is read only if every domain gives its tokens
        text = text.replace("no/*.txt}", "no/*.txt, tokens: 9}").replace("text: content}", "text: content, tokens: 9}")
    code, found, _ = mixopt("search", write_job(corpus_root, text, "dry.yaml"), "--dry-run")
    assert code == 2
    assert sentence in found["error"]


@pytest.mark.parametrize("command", ["methods", "laws", "doctor"])
def test_lists(mixopt: Run, command: str) -> None:
    code, found, seen = mixopt(command)
    assert code == 0
    assert found
    assert seen


@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        (
            ("tokens: 20_000, count: 12", "tokens: 20_000, cuont: 12"),
            ["proxies.cuont: no such key; did you mean 'count'?"],
        ),
        (("path: gamma.parquet", "path: delta.parquet"), ["gamma", "delta.parquet"]),
        (("text: content", "text: body"), ["gamma", "body", "content"]),
        (("size: 10k", "size: 11k"), ["proxies.size: unknown size '11k'", "10k"]),
        (("tokens: 300_000", "tokens: 300_000_000"), ["no mixture is allowed", "max_epochs"]),
        (("count: 12", "count: 3"), ["proxies.count: 3 runs cannot determine the law over 3 domains"]),
        (("max_epochs: 4", "max_epochs: 4, upper: {nope: 0.1}"), ["target.upper: unknown domain 'nope'"]),
        (("export: [", "export: [mega, "), ["export: unknown backend 'mega'"]),
    ],
)
def test_bad_jobs_are_refused_in_a_sentence(
    mixopt: Run, corpus_root: Path, tmp_path: Path, change: tuple[str, str], sentences: list[str]
) -> None:
    assert change[0] in JOB
    job = write_job(corpus_root, JOB.replace(*change), "bad.yaml")
    code, found, seen = mixopt("search", job, "--out", tmp_path / "out")
    assert code == 2
    assert found["exit_code"] == 2
    for sentence in sentences:
        assert sentence in found["error"]
    assert "Traceback" not in seen
    assert not (tmp_path / "out").exists()


def test_too_many_diverged_runs_end_the_search(mixopt: Run, corpus_root: Path, tmp_path: Path) -> None:
    hot = write_job(corpus_root, JOB.replace("count: 12}", "count: 12, learning_rate: 1e30}"), "hot.yaml")
    code, found, _ = mixopt("search", hot, "--out", tmp_path / "out")
    assert code == 3
    assert "12 of 12 runs failed, and the law needs 5 good ones" in found["error"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"job.lock.yaml"}


def test_a_directory_of_another_job_is_refused(mixopt: Run, corpus_root: Path, searched: Path) -> None:
    code, found, _ = mixopt("search", corpus_root / "small.yaml", "--set", "target.tokens=200_000", "--out", searched)
    assert code == 2
    assert "holds the results of another job (target.tokens was 300000, is 200000)" in found["error"]


def test_too_short_a_domain_is_refused(mixopt: Run, corpus_root: Path, tmp_path: Path) -> None:
    for j in range(3):
        (corpus_root / f"tiny{j}.txt").write_text(f"short {j}")
    job = write_job(
        corpus_root, JOB.replace("no/*.txt", "tiny*.txt").replace("tokens: 300_000", "tokens: 3000"), "bad.yaml"
    )
    code, found, _ = mixopt("search", job, "--out", tmp_path / "out")
    assert code == 2
    assert "domain 'no'" in found["error"]


def test_a_truncated_archive_is_named(mixopt: Run, corpus_root: Path, tmp_path: Path) -> None:
    whole = (corpus_root / "alpha.jsonl.gz").read_bytes()
    (corpus_root / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    job = write_job(corpus_root, JOB.replace('"*.jsonl.gz"', "cut.jsonl.gz"), "bad.yaml")
    code, found, _ = mixopt("search", job, "--out", tmp_path / "out")
    (corpus_root / "cut.jsonl.gz").unlink()
    assert code == 2
    assert "cut.jsonl.gz" in found["error"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fit", "--ratios", "none.csv", "--metrics", "none.csv"], "none.csv"),
        (["export", "nowhere", "--to", "megatron"], "mixture.json"),
        (["report", "nowhere"], "results.json: cannot be read"),
        (["serach"], "No such command"),
        (["search"], "Missing argument"),
        (["search", "none.yaml"], "job file none.yaml: cannot be read"),
    ],
)
def test_wrong_arguments(mixopt: Run, arguments: list[str], sentence: str) -> None:
    code, found, _ = mixopt(*arguments)
    assert code == 2
    assert sentence in found["error"]


def test_unknown_names_get_the_nearest(mixopt: Run, searched: Path) -> None:
    swarm = ("--ratios", searched / "ratios.csv", "--metrics", searched / "metrics.csv")
    assert "did you mean 'loglinear'?" in mixopt("fit", *swarm, "--law", "loglinaer")[1]["error"]
    assert "did you mean 'bpb/alpha'?" in mixopt("fit", *swarm, "--target", "bpb/alhpa")[1]["error"]
    assert "did you mean 'megatron'?" in mixopt("export", searched, "--to", "megatorn")[1]["error"]


def test_rows_that_do_not_sum_to_one(mixopt: Run, searched: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(searched / "ratios.csv")
    frame.iloc[2, 1:] *= 0.9
    frame.to_csv(tmp_path / "ratios.csv", index=False)
    code, found, _ = mixopt("fit", "--ratios", tmp_path / "ratios.csv", "--metrics", searched / "metrics.csv")
    assert code == 2
    assert str(frame.iloc[2, 0]) in found["error"]
    assert "0.9" in found["error"]


def test_fit_says_where_runs_do_not_tell_domains_apart(mixopt: Run, tmp_path: Path) -> None:
    web_R = np.random.default_rng(0).random(20).round(3)
    apart = [
        f"{i},{w},{(1 - w) * s},{(1 - w) * (1 - s)}" for i, (w, s) in enumerate(zip(web_R, web_R[::-1], strict=True))
    ]
    tied = [f"{i},{w},{(1 - w) / 4},{3 * (1 - w) / 4}" for i, w in enumerate(web_R)]
    (tmp_path / "metrics.csv").write_text("\n".join(["run,loss", *(f"{i},{3 - w}" for i, w in enumerate(web_R))]))
    notes = []
    for lines in (apart, tied):
        (tmp_path / "ratios.csv").write_text("\n".join(["run,web,code,law", *lines]))
        files = "--ratios", tmp_path / "ratios.csv", "--metrics", tmp_path / "metrics.csv"
        notes.append(mixopt("fit", *files, "--target", "loss", "--law", "linear")[1]["notes"])
    assert notes[0] == []
    assert "vary not at all" in notes[1][0] or "times less" in notes[1][0]


def test_laws_say_what_they_offer(mixopt: Run) -> None:
    _, found, seen = mixopt("laws")
    keys = ("convex", "smooth", "posterior", "min_runs")
    offered = {name: tuple(row[key] for key in keys) for name, row in found.items() if not row["scale_aware"]}
    assert offered["loglinear"] == ("always", True, True, 12)
    assert offered["quadratic"] == ("sometimes", True, True, 10)
    assert offered["lightgbm"] == ("never", False, False, 16)
    assert {name for name, row in found.items() if row["scale_aware"]} == set(SCALE_LAWS)
    assert "sometimes" in seen
