"""MosaicML Streaming itself, where it is installed, draws what the exported files say; the tokens drawn are counted."""

import json
import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mixopt.backends import make
from mixopt.backends.streaming import samples_of
from mixopt.handoff import Plan, PlannedDomain, Sources
from mixopt.mixture import Mixture

SEQUENCE = 32
APART = 1_000_000
HELD = {"code": 30_000, "math": 10_000, "web": 15_000}
TARGET = 50_000
THREE = Mixture({"code": 0.3, "math": 0.2, "web": 0.5})
LATE = Mixture({"code": 0.8, "math": 0.0, "web": 0.2})


def written(root: Path) -> tuple[PlannedDomain, ...]:
    """MDS folders of samples of one sequence, every token with an id of its own."""
    from streaming import MDSWriter

    domains = []
    for k, (name, held) in enumerate(HELD.items()):
        folder = root / "mds" / name
        with MDSWriter(out=str(folder / "train"), columns={"tokens": f"ndarray:uint32:{SEQUENCE}"}) as file:
            for start in range(0, held, SEQUENCE):
                file.write({"tokens": np.arange(start, start + SEQUENCE, dtype=np.uint32) + k * APART})
        domains.append(PlannedDomain(name, held, sources=Sources(mds=str(folder))))
    return tuple(domains)


@pytest.mark.parametrize("phases", [((0, THREE),), ((0, THREE), (TARGET // 5 * 4, LATE))])
def test_streaming_draws_the_samples_that_are_read_back(phases, tmp_path, monkeypatch):
    pytest.importorskip("streaming")
    from streaming.base.util import clean_stale_shared_memory

    plan = Plan(TARGET, written(tmp_path), phases)
    backend, out = make("streaming", sequence=SEQUENCE), tmp_path / "out"
    backend.export(plan, out)
    monkeypatch.chdir(tmp_path)  # the local caches are beside the run
    (out / "train.py").write_text("\n".join(backend.command(out)), encoding="utf-8")
    clean_stale_shared_memory()
    run = runpy.run_path(str(out / "train.py"), init_globals={"batch_size": 1})
    numbers = json.loads((out / "numbers.json").read_text())
    expected = []
    for k, (phase, (_, mixture)) in enumerate(zip(numbers["phases"], phases, strict=True)):
        drawn: Counter[str] = Counter()
        for sample in run[f"phase_{k}"]:
            drawn[list(HELD)[int(sample["tokens"][0]) // APART]] += 1
        streams = {name: {"proportion": p} for name, p in phase["proportions"].items()}
        assert drawn == samples_of(streams, phase["epoch_size"], numbers["shuffle_seed"])
        assert drawn.total() * SEQUENCE == pytest.approx(phase["tokens"], abs=SEQUENCE)
        for name, p in mixture.items():
            assert drawn[name] / drawn.total() == pytest.approx(p, abs=1 / drawn.total())
        expected.append({name: phase["tokens"] * count / drawn.total() for name, count in drawn.items()})
    exported = backend.read_back(out)
    for name in HELD:
        assert exported[name] == pytest.approx(sum(tokens.get(name, 0.0) for tokens in expected) / TARGET, abs=1e-12)
