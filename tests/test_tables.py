from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixopt.errors import DataError, SwarmError
from mixopt.mixture import Mixture, Segment
from mixopt.policy import Fixed
from mixopt.runs import Proxy, RunRecord, RunSpec, Swarm
from mixopt.space import MixtureSpace
from mixopt.tables import Table, canonical, metric_name, read_domains, read_swarm, write_swarm

RATIOS = "run,web,code\na,0.25,0.75\nb,0.5,0.5\nc,1.0,0.0\n"
METRICS = "run,bpb/web,bpb/code\nb,1.5,2\nc,1.0,3\na,2.5,1\n"


def read(folder: Path, ratios: str = RATIOS, metrics: str = METRICS) -> Table:
    (folder / "ratios.csv").write_text(ratios)
    (folder / "metrics.csv").write_text(metrics)
    return read_swarm(folder / "ratios.csv", folder / "metrics.csv")


def record(name: str, mixture: Mixture, metrics: dict[str, float], error: str = "") -> RunRecord:
    proxy = Proxy("toy", 100, 8, 4, 1e-3, 2, 16, {}, name)
    return RunRecord(RunSpec(Fixed(mixture), proxy, 0), metrics, trace=(Segment(mixture, 100),), error=error)


def test_runs_are_joined_by_id_and_columns_sorted_by_name(tmp_path: Path) -> None:
    table = read(tmp_path)
    assert (table.names, table.metrics, table.runs) == (("code", "web"), ("bpb/code", "bpb/web"), ("a", "b", "c"))
    assert table.X_RD.tolist() == [[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]]
    assert table.Y_RM.tolist() == [[1, 2.5], [2, 1.5], [3, 1]]
    assert table.notes == ()


def test_regmix_names_are_understood(tmp_path: Path) -> None:
    ratios = "index,train_the_pile_uspto,train_the_pile_arxiv\n1,0.2,0.8\n2,1,0\n"
    metrics = "index,metric/the_pile_arxiv_val_loss\n2,3.5\n1,2.5\n"
    table = read(tmp_path, ratios, metrics)
    assert (table.names, table.metrics, table.runs) == (("arxiv", "uspto"), ("arxiv",), ("1", "2"))
    assert table.Y_RM.tolist() == [[2.5], [3.5]]
    assert canonical(["train_web", "train_code"]) == ["web", "code"]
    assert canonical(["train_timetables", "code"]) == ["train_timetables", "code"]
    assert (metric_name("metric/web_val_loss"), metric_name("bpb/web")) == ("web", "bpb/web")


def test_olmix_extra_columns_are_left_out(tmp_path: Path) -> None:
    ratios = "run,name,index,dclm:code,dclm:web\nr0,swarm-0,0,0.5,0.5\nr1,swarm-1,1,0.25,0.75\n"
    metrics = "run,name,index,arc,mmlu\nr0,swarm-0,0,1.5,1\nr1,swarm-1,1,1.25,2\n"
    table = read(tmp_path, ratios, metrics)
    assert (table.names, table.metrics, table.runs) == (("dclm:code", "dclm:web"), ("arc", "mmlu"), ("r0", "r1"))
    assert table.notes == tuple(f"{f}.csv: columns without a number are left out: name." for f in ("ratios", "metrics"))


@pytest.mark.parametrize("key", ["run", "run_id", "index"])
def test_the_key_is_the_first_that_both_have(tmp_path: Path, key: str) -> None:
    assert read(tmp_path, RATIOS.replace("run", key), METRICS.replace("run", key)).runs == ("a", "b", "c")


def test_rounded_proportions_are_scaled_and_noted(tmp_path: Path) -> None:
    table = read(tmp_path, RATIOS.replace("0.25,0.75", "0.249,0.747"))
    np.testing.assert_allclose(table.X_RD[0], [0.75, 0.25])
    assert table.notes == ("ratios.csv: 1 of 3 lines summed to 0.996 ... 1 and were scaled to sum 1.",)


REFUSED = {
    "sum": (RATIOS.replace("0.25", "0.3"), METRICS, r"ratios.csv: .* run a .*sum to 1 \(got 1.05"),
    "negative": (RATIOS.replace("0.25,0.75", "-0.25,1.25"), METRICS, r"run a must be >= 0 .*smallest -0.25"),
    "text": (RATIOS.replace("0.25", "much"), METRICS, r"ratios.csv: web of run a: .*got 'much'"),
    "empty cell": (RATIOS, METRICS.replace("1.5", ""), r"metrics.csv: bpb/web of run b: .*got ''"),
    "nan": (RATIOS, METRICS.replace("1.5", "nan"), r"bpb/web of run b: must be a finite number \(got 'nan'\)"),
    "infinite": (RATIOS, METRICS.replace("1.5", "-inf"), r"finite number \(got '-inf'\)"),
    "duplicate run": (RATIOS + "a,0.5,0.5\n", METRICS, r"ratios.csv: two lines for run a\."),
    "run without id": (RATIOS + ",0.5,0.5\n", METRICS, r"column run is empty in 1 lines"),
    "missing metrics": (RATIOS + "d,0.5,0.5\n", METRICS, r"metrics.csv: no line for run d\."),
    "missing ratios": (RATIOS, METRICS + "d,1,1\n", r"ratios.csv: no line for run d\."),
    "no key": (RATIOS.replace("run", "trial"), METRICS, r"no column to join on.*run, run_id, index"),
    "same column twice": (RATIOS.replace("code", "web"), METRICS, r"two columns are called web"),
    "same metric twice": (RATIOS, "run,web,metric/web_val_loss\na,1,2\nb,2,3\nc,1,1\n", r"two columns for metric web"),
    "no numbers": (RATIOS, "run,note\na,x\nb,y\nc,z\n", r"metrics.csv: no column of numbers"),
    "no lines": ("run,web,code\n", METRICS, r"ratios.csv: no lines below the first"),
    "no text": ("", METRICS, r"ratios.csv: not readable as CSV"),
    "too long a line": (RATIOS + "d,0.5,0.5,0.5\n", METRICS, r"ratios.csv: not readable as CSV"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_and_named(tmp_path: Path, case: str) -> None:
    ratios, metrics, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        read(tmp_path, ratios, metrics)


def test_a_file_that_is_missing_or_not_utf8_is_refused(tmp_path: Path) -> None:
    read(tmp_path)
    with pytest.raises(DataError, match=r"nowhere.csv: not readable"):
        read_swarm(tmp_path / "nowhere.csv", tmp_path / "metrics.csv")
    (tmp_path / "ratios.csv").write_bytes("run,café\na,1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"ratios.csv: not readable as CSV in UTF-8"):
        read_swarm(tmp_path / "ratios.csv", tmp_path / "metrics.csv")


def test_a_byte_order_mark_and_spaces_do_no_harm(tmp_path: Path) -> None:
    assert read(tmp_path, "\ufeff" + RATIOS.replace(",", " , ")).names == ("code", "web")


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_a_written_swarm_reads_back_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng, out = np.random.default_rng(seed), tmp_path_factory.mktemp("swarm")
    names = ["a,b", "code", 'q"uote', "web"]
    records = []
    for i, w_D in enumerate(rng.dirichlet(np.ones(4) * 0.2, 5)):
        records.append(record(str(i), Mixture.from_array(names, w_D), {"bpb/web": rng.lognormal(), "bpb/code": 1e-7}))
    swarm = Swarm((*records, record("failed", Mixture({n: 0.25 for n in names}), {}, error="lost")))
    written = write_swarm(swarm, names, ["bpb/web", "bpb/code"], out / "deep")
    table = read_swarm(*written)
    assert [path.name for path in written] == sorted((p.name for p in (out / "deep").iterdir()), reverse=True)
    assert table.runs == tuple(r.spec.id for r in records)
    np.testing.assert_array_equal(table.X_RD, swarm.good.mixtures_RD(table.names))
    np.testing.assert_array_equal(table.Y_RM, swarm.good.metrics_RM(table.metrics))
    assert table.notes == ()


def test_runs_that_disagree_on_metrics_are_counted_and_the_first_is_named() -> None:
    mixture = Mixture({"code": 0.5, "web": 0.5})
    full, short, broken = (
        record(name, mixture, metrics)
        for name, metrics in (
            ("a", {"bpb/code": 1.0, "bpb/web": 2.0}),
            ("b", {"bpb/code": 1.0}),
            ("c", {"bpb/web": math.nan}),
        )
    )
    with pytest.raises(
        SwarmError, match=rf"2 of 3 runs have no finite metric 'bpb/web', first run {short.spec.id}: .*objective"
    ):
        Swarm((full, short, broken)).metrics_RM(["bpb/web"])
    with pytest.raises(SwarmError, match=r"1 of 2 runs .*'bpb/web', first run .*: got nan\. Take it out"):
        Swarm((full, broken)).metrics_RM(["bpb/web"])
    with pytest.raises(SwarmError, match="did you mean 'bpb/code'"):
        Swarm((short,)).metrics_RM(["bpb/kode"])


def domains(folder: Path, text: str) -> Path:
    (folder / "domains.csv").write_text(text)
    return folder / "domains.csv"


def test_domains_make_a_space(tmp_path: Path) -> None:
    text = "domain,tokens,prior,lower,upper\nweb,9e9,0.7,,0.9\ncode,1_000_000_000,0.3,0.1,\n"
    found, prior, lower, upper = read_domains(domains(tmp_path, text))
    assert [(d.name, d.tokens) for d in found] == [("web", 9_000_000_000), ("code", 1_000_000_000)]
    assert (prior, lower, upper) == (Mixture({"web": 0.7, "code": 0.3}), {"code": 0.1}, {"web": 0.9})
    assert MixtureSpace(found, 10**9, prior=prior, lower=lower, upper=upper).names == ("code", "web")


def test_domains_share_the_names_of_ratios(tmp_path: Path) -> None:
    found, prior, lower, upper = read_domains(domains(tmp_path, "name,tokens\nthe_pile_arxiv,10\nthe_pile_web,20\n"))
    assert [d.name for d in found] == ["arxiv", "web"]
    assert (prior, lower, upper) == (None, {}, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("domain,tokens,uper\nweb,1,0.5\n", "unknown column 'uper'; did you mean 'upper'"),
        ("domain,prior\nweb,1\n", "no column 'tokens'"),
        ("domain,tokens\nweb,many\n", "tokens of web: must be a finite number .got 'many'"),
        ("domain,tokens\nweb,-5\n", "tokens of web: must be between 0 and inf .got -5"),
        ("domain,tokens,upper\nweb,5,1.5\n", "upper of web: must be between 0 and 1 .got 1.5"),
        ("domain,tokens,prior\nweb,5,0.5\ncode,5,0.4\n", "column prior: .*sum to 0.9"),
        ("domain,tokens,prior\nweb,5,1\ncode,5,\n", "prior of code: must be a finite number .got ''"),
        ("domain,tokens\nweb,5\nweb,6\n", "two lines for domain web"),
    ],
)
def test_domains_that_cannot_be_used_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_domains(domains(tmp_path, text))
