"""The training stacks themselves, where they are installed, read what was exported and draw small made-up domains."""

import math
import runpy
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from mixopt.backends import make
from mixopt.backends.levanter import CONFIG, Levanter
from mixopt.handoff import Plan, PlannedDomain
from mixopt.mixture import Mixture
from mixopt.yaml_text import parse_as_pyyaml

SEQUENCE = 64
LENGTHS = {"code": 70.0, "math": 150.0, "web": 30.0}
PHASES = (Mixture({"code": 0.3, "math": 0.2, "web": 0.5}), Mixture({"code": 0.8, "math": 0.0, "web": 0.2}))


def plan_of(target: int, *mixtures: Mixture) -> Plan:
    """Phases of the same length; every domain holds a twentieth of the run."""
    domains = tuple(PlannedDomain(name, target // 20, length) for name, length in LENGTHS.items())
    return Plan(target, domains, tuple((k * target // len(mixtures), m) for k, m in enumerate(mixtures)))


def near(drawn: Counter[str], meant: Mixture, rough: float) -> None:
    total = sum(drawn.values())
    for name, p in meant.items():
        assert drawn[name] / total == pytest.approx(p, abs=rough)


def test_levanter_reads_the_data_section_and_draws_it(tmp_path):
    draccus = pytest.importorskip("draccus")
    mixture = pytest.importorskip("levanter.data.mixture")
    text = pytest.importorskip("levanter.data.text.datasets")
    from levanter.data import ListAsyncDataset
    from levanter.schedule import BatchSchedule

    plan = plan_of(SEQUENCE * 40_960, *PHASES)
    Levanter(sequence=SEQUENCE, batch=64).export(plan, tmp_path)
    body = parse_as_pyyaml((tmp_path / CONFIG).read_text(encoding="utf-8"))["data"]
    config = draccus.decode(text.LmDataConfig, body)
    assert set(config.components) == set(LENGTHS)
    stages = mixture.rescale_mixture_schedule_for_batch_schedule(config.train_weights, BatchSchedule(64))
    held = {name: ListAsyncDataset([name] * 2000) for name in LENGTHS}
    dataset = mixture.MixtureDataset(
        held, stages, config.mixture_block_size, key=0, stop_strategy=config.stop_strategy
    ).as_sync_dataset()
    start = stages[1][0]
    assert start == pytest.approx(20_480, abs=config.mixture_block_size / 2)
    near(Counter(dataset.get_batch(range(start))), PHASES[0], 1e-3)
    near(Counter(dataset.get_batch(range(start, 40_960))), PHASES[1], 3e-3)


def test_easydel_mixes_documents_to_the_intended_tokens(tmp_path):
    pytest.importorskip("easydel")
    mixing = pytest.importorskip("easydel.data.transforms.mixture")
    from easydel.data.core.protocols import PipelineContext, ShardedDataSource

    class Documents(ShardedDataSource):  # type: ignore[misc]
        """Documents of one domain, whose lengths vary around its mean."""

        shard_names = ("only",)

        def __init__(self, mean: float) -> None:
            self._lengths = (np.random.default_rng(0).poisson(mean - 1, 5000) + 1).tolist()

        def num_shards(self) -> int:
            return 1

        def open_shard(self, shard_name: str) -> Iterator[dict[str, object]]:
            return ({"tokens": length} for length in self._lengths)

        def __len__(self) -> int:
            return len(self._lengths)

    target = 8_000_000
    make("easydel").export(plan_of(target, *PHASES), tmp_path)
    stage = runpy.run_path(str(tmp_path / "mixture.py"))["stage"]()
    sources = {name: Documents(length) for name, length in LENGTHS.items()}
    mixed = mixing.MixStage(stage).process(sources, PipelineContext(config={}))["mixed"]
    second = stage.weight_schedule[1].step
    drawn = (Counter[str](), Counter[str]())
    for k, row in enumerate(mixed.open_shard("mixed_shard_0")):
        drawn[k >= second][row["__source__"]] += row["tokens"]
        if sum(map(sum, (d.values() for d in drawn))) >= target:
            break
    assert sum(drawn[0].values()) == pytest.approx(target / 2, rel=5e-3)
    assert k + 1 == pytest.approx(
        sum(math.fsum(p / LENGTHS[n] for n, p in m.items()) * target / 2 for m in PHASES), rel=5e-3
    )
    near(drawn[0], PHASES[0], 3e-3)
    near(drawn[1], PHASES[1], 3e-3)
