"""Shared fixtures: a small generated corpus as token shards, and a study on the toy."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mixopt.domains import Domain, Manifest, Shard, Split, Tokenizer
from mixopt.runs import Objective, Proxy
from mixopt.space import MixtureSpace
from mixopt.study import Study
from pipelines.cli import main
from proxies.toy import Toy

NAMES = ("code", "law", "web")


def markov_tokens(rng: np.random.Generator, count: int, vocabulary: int) -> np.ndarray:
    """A chain in which each token has a few likely successors: something a small model learns quickly."""
    following = rng.integers(0, vocabulary, (vocabulary, 3))
    picks = rng.integers(0, 3, count)
    tokens = np.empty(count, dtype="<u2")
    token = 0
    for i in range(count):
        token = following[token, picks[i]]
        tokens[i] = token
    return tokens


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Three domains of generated tokens; `law` lies in two shards."""
    root = tmp_path_factory.mktemp("corpus")
    domains = []
    for i, name in enumerate(NAMES):
        rng = np.random.default_rng(i)
        tokens = markov_tokens(rng, 24_000, 64)
        parts = {"train": np.split(tokens[:20_000], [9_000]) if name == "law" else [tokens[:20_000]]}
        parts["valid"] = [tokens[20_000:]]
        splits = {}
        for split, arrays in parts.items():
            shards = []
            for j, array in enumerate(arrays):
                path = f"{name}-{split}-{j}.u16"
                array.tofile(root / path)
                shards.append(Shard(path, len(array)))
            total = sum(len(a) for a in arrays)
            splits[split] = Split(total, 3 * total, 10, tuple(shards))
        domains.append(Domain(name, 20_000, splits["train"], splits["valid"], f"fingerprint-{name}"))
    manifest = Manifest(tuple(domains), Tokenizer("bytes", 64, 0, "test"), root)
    manifest.save()
    return manifest


@pytest.fixture
def proxy(corpus: Manifest) -> Proxy:
    """Settings for runs of a second or less on `corpus`."""
    return Proxy(
        size="10k",
        tokens=16_384,
        sequence=64,
        batch=8,
        learning_rate=0.01,
        checkpoints=4,
        eval_tokens=1024,
        supply={name: 20_000 for name in NAMES},
        data=corpus.fingerprint,
    )


@pytest.fixture
def toy_study() -> Study:
    """A study whose runs the toy trains in no time."""
    domains = tuple(Domain(n, t) for n, t in zip(("a", "b", "c", "d"), (400, 300, 200, 100), strict=True))
    names = tuple(d.name for d in domains)
    proxy = Proxy("10k", 1000, 64, 4, 0.01, 1, 64, dict.fromkeys(names, 1000), "toy")
    space = MixtureSpace(domains, target_tokens=1000, max_epochs=4)
    return Study(space, Objective({f"bpb/{n}": 1.0 for n in names}), proxy, count=40, seed=0)


@pytest.fixture
def toy(toy_study: Study) -> Toy:
    """The toy trainer of `toy_study`."""
    return Toy(toy_study.space.names, noise=0.002)


@pytest.fixture
def mixopt(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict, str]]:
    """Run a command with --json: its exit code, the object on the last line, and what people see."""

    def run(*arguments: object) -> tuple[int, dict, str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), json.loads(out.splitlines()[-1]), err

    return run


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders of generated documents, uneven in size, each domain with words of its own."""
    root = tmp_path_factory.mktemp("texts")
    for i, (name, documents) in enumerate({"code": 60, "law": 30, "web": 40}.items()):
        rng = np.random.default_rng(i)
        words = ["".join(rng.choice(list("abcdefghij"), 4)) for _ in range(20 * (i + 1))]
        (root / name).mkdir()
        for j in range(documents):
            (root / name / f"{j:03}.txt").write_text(" ".join(rng.choice(words, 300)))
    return root


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A folder for one test's store."""
    return tmp_path / "store"
