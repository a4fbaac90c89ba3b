"""Tokens per CPU second of preparing text (BPE of 4096 tokens), its memory, and what a second thread gains.

    python benchmarks/tokenizing.py [CORPUS] [--megabytes 3] [--json]

CORPUS, or MIXOPT_CORPUS, is a folder with one folder of train-*.jsonl.gz for each domain; without it text is generated.
So many megabytes of each domain are copied in documents of at most 20,000 characters, a tokenizer is trained on them, and each contender reads the copies in a
process of its own, held to one core, or to two where it is said, after it has prepared a small corpus once (which
imports what it needs). Contenders alternate; medians count.

End to end (read, decompress, hash, encode, pack), `datasets.map` over the same files with the bare library in batches is
the peer. Encoding and packing alone, from memory, is compared with the bare library's `encode_batch_fast`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mixopt.data import DataConfig, Source, TokenizerConfig
from mixopt.progress import Silent
from pipelines import tokenizer
from pipelines.prepare import BATCH_BYTES, prepare
from pipelines.progress import Bars

VOCABULARY, REPEATS, MEMORY = 4096, 3, 1000.0
GENERATED_DOMAINS, GENERATED_WORDS = 8, 20_000
LONGEST = 20_000  # characters of a document
LIBRARY_FILE = "tokenizer.json"


def lines(path: Path) -> Iterator[str]:
    """The documents of a file."""
    with gzip.open(path, "rt", encoding="utf-8") as f:
        for line in f:
            yield json.loads(line)["text"]


def copied(corpus: Path, folder: Path, size: float) -> None:
    """The first `size` bytes of each domain."""
    for domain in sorted({path.parent for path in corpus.glob("*/train-*.jsonl.gz")}):
        found = (text for path in sorted(domain.glob("train-*.jsonl.gz")) for text in lines(path))
        written(folder / domain.name, found, size)


def written(folder: Path, documents: Iterator[str], size: float) -> None:
    """A domain of documents, until `size` bytes of them."""
    folder.mkdir(parents=True)
    done = 0
    with gzip.open(folder / "train-0000.jsonl.gz", "wt", encoding="utf-8") as out:
        for document in documents:
            for start in range(0, len(document), LONGEST):
                text = document[start : start + LONGEST]
                done += len(text.encode())
                out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            if done >= size:
                return


def generated(folder: Path, size: float) -> None:
    """Domains of made-up words, few of them frequent as in a language, with numbers and punctuation."""
    rng = np.random.default_rng(0)
    parts = np.array([a + b for a in "bcdfghklmnprstvw" for b in ("a", "e", "i", "o", "u", "an", "er", "ou")])
    for d in range(GENERATED_DOMAINS):
        words = np.array(["".join(rng.choice(parts, n)) for n in rng.integers(1, 5, GENERATED_WORDS)])
        words[::50] = [str(i) for i in range(len(words[::50]))]
        written(folder / f"generated-{d}", sentences(rng, words), size)


def sentences(rng: np.random.Generator, words: np.ndarray) -> Iterator[str]:
    """Documents of 500 words without end."""
    while True:
        picks = words[np.minimum(rng.zipf(1.2, 500), len(words)) - 1].tolist()
        picks[::12] = [word.capitalize() + "," for word in picks[::12]]
        yield " ".join(picks) + ".\n"


def config(folder: Path, given: TokenizerConfig) -> DataConfig:
    """The copies as domains."""
    domains = {path.name: Source(f"{path}/*.jsonl.gz") for path in sorted(folder.iterdir()) if path.is_dir()}
    return DataConfig(domains, tokenizer=given)


def prepared(folder: Path, out: Path) -> int:
    """Tokens that `prepare` packs from the copies."""
    manifest = prepare(config(folder, TokenizerConfig("file", file=str(folder / LIBRARY_FILE))), out, Silent())
    return sum(domain.train.tokens + domain.valid.tokens for domain in manifest.domains)


def mapped(folder: Path, out: Path) -> int:
    """Tokens that `datasets` and the bare library pack from them."""
    from datasets import disable_progress_bars, load_dataset
    from tokenizers import Tokenizer

    disable_progress_bars()
    library = Tokenizer.from_file(str(folder / LIBRARY_FILE))
    end = library.token_to_id(tokenizer.END_OF_TEXT)

    def encode(batch: dict[str, list[str]]) -> dict[str, list[np.ndarray]]:
        encoded = library.encode_batch_fast(batch["text"], add_special_tokens=False)
        return {"ids": [np.array([*own.ids, end], np.uint16) for own in encoded]}

    paths = [str(path) for path in sorted(folder.glob("*/*.jsonl.gz"))]
    data = load_dataset("json", data_files=paths, split="train", cache_dir=str(out))
    tokens = 0
    with (out / "tokens.u16").open("wb") as f:
        for batch in data.map(encode, batched=True, remove_columns=["text"]).with_format("numpy").iter(1000):
            tokens += f.write(np.concatenate(batch["ids"]).astype("<u2").tobytes()) // 2
    return tokens


def packed(encode: Callable[[list[str]], list[np.ndarray]], batches: list[list[str]], out: Path) -> int:
    """Tokens that are encoded from memory and written."""
    tokens = 0
    with (out / "tokens.u16").open("wb") as f:
        for batch in batches:
            tokens += f.write(np.concatenate(encode(batch)).tobytes()) // 2
    return tokens


def in_batches(folder: Path) -> list[list[str]]:
    """Every document, in lists of about as many bytes as `prepare` encodes at once."""
    batches: list[list[str]] = [[]]
    size = 0
    for text in (text for path in sorted(folder.glob("*/*.jsonl.gz")) for text in lines(path)):
        if size > BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(text)
        size += len(text.encode())
    return batches


def encoder(folder: Path, out: Path) -> Callable[[], int]:
    """Our encoding and packing, ready to start."""
    made = tokenizer.make(TokenizerConfig("file", file=str(folder / LIBRARY_FILE)), ())
    batches = in_batches(folder)
    return lambda: packed(made.encode, batches, out)


def library(folder: Path, out: Path) -> Callable[[], int]:
    """The bare library's."""
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(folder / LIBRARY_FILE))
    batches, end = in_batches(folder), made.token_to_id(tokenizer.END_OF_TEXT)

    def encode(batch: list[str]) -> list[np.ndarray]:
        return [np.array([*e.ids, end], "<u2") for e in made.encode_batch_fast(batch, add_special_tokens=False)]

    return lambda: packed(encode, batches, out)


CONTENDERS: dict[str, Callable[[Path, Path], Callable[[], int]]] = {
    "prepare": lambda folder, out: lambda: prepared(folder, out),
    "datasets.map": lambda folder, out: lambda: mapped(folder, out),
    "encode": encoder,
    "encode_batch_fast": library,
}


def child(name: str, cores: int, folder: Path, small: Path) -> dict[str, float]:
    """One contender in this process: its tokens, CPU and wall seconds, and the process's peak memory in megabytes."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    with tempfile.TemporaryDirectory() as warm, tempfile.TemporaryDirectory() as out:
        CONTENDERS[name](small, Path(warm))()
        act = CONTENDERS[name](folder, Path(out))
        began, wall = time.process_time(), time.perf_counter()
        tokens = act()
        seconds, wall = time.process_time() - began, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 * 1.048576
    return {"tokens": tokens, "cpu": seconds, "wall": wall, "peak": peak}


def measured(name: str, cores: int, folder: Path, small: Path) -> dict[str, float]:
    """The same in a new process, which may use no more threads than cores."""
    command = [sys.executable, __file__, "--child", name, str(cores), str(folder), str(small)]
    environment = os.environ | {"RAYON_NUM_THREADS": str(cores), "TOKENIZERS_PARALLELISM": "true"}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(cores)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def laid_out(corpus: Path | None, root: Path, size: float) -> tuple[Path, Path]:
    """The text and a small corpus, each with the tokenizer."""
    folder, small = root / "text", root / "small"
    if corpus is None:
        generated(folder, size)
    else:
        copied(corpus, folder, size)
    for name in ("a", "b"):
        written(small / name, (f"document {i} of {name}" for i in range(200)), size)
    manifest = prepare(config(folder, TokenizerConfig("train", VOCABULARY)), root / "store", Silent())
    for path in (folder, small):
        (path / LIBRARY_FILE).write_bytes((manifest.root / LIBRARY_FILE).read_bytes())
    return folder, small


def rows(found: dict[tuple[str, int], list[dict[str, float]]]) -> Iterator[dict[str, object]]:
    """What was found, each value against what it is compared with."""

    def median(name: str, what: str, cores: int = 1) -> float:
        if what == "rate":
            return statistics.median(run["tokens"] / run["cpu"] for run in found[name, cores])
        return statistics.median(run[what] for run in found[name, cores])

    def row(what: str, value: float, peer: float, ratio: float, reach: float) -> dict[str, object]:
        return {"what": what, "value": value, "peer": peer, "ratio": ratio, "reach": reach, "ok": ratio >= reach}

    end_to_end, alone = median("prepare", "rate"), median("encode", "rate")
    peer, bare = median("datasets.map", "rate"), median("encode_batch_fast", "rate")
    yield row("prepare, tokens per CPU second against 1 M", end_to_end, 1e6, end_to_end / 1e6, 1.0)
    yield row("prepare, tokens per CPU second against datasets.map", end_to_end, peer, end_to_end / peer, 1.5)
    yield row("encode and pack, tokens per CPU second against encode_batch_fast", alone, bare, alone / bare, 1.5)
    peak = max(run["peak"] for (name, _), runs in found.items() for run in runs if name == "prepare")
    yield row("prepare, peak MB of memory against 1000", peak, MEMORY, MEMORY / peak, 1.0)
    if ("prepare", 2) in found:
        one, two = median("prepare", "wall"), median("prepare", "wall", 2)
        yield row("prepare, wall seconds with two cores against one", two, one, one / two, 1.2)


def main() -> None:
    """Lay out the text, alternate the contenders, report medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", type=Path, default=os.environ.get("MIXOPT_CORPUS"))
    parser.add_argument("--megabytes", type=float, default=3.0, help="of each domain")
    parser.add_argument("--json", action="store_true", help="end standard output with one JSON object")
    given = parser.parse_args()
    corpus = None if given.corpus is None else Path(given.corpus)
    kinds = [(name, 1) for name in CONTENDERS]
    if len(os.sched_getaffinity(0)) > 1:
        kinds.append(("prepare", 2))
    found: dict[tuple[str, int], list[dict[str, float]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as root, Bars().task("tokenize", REPEATS * len(kinds)) as advance:
        folder, small = laid_out(corpus, Path(root), given.megabytes * 1e6)
        for _ in range(REPEATS):
            for name, cores in kinds:
                found[name, cores].append(measured(name, cores, folder, small))
                advance(1)
    if len({run["tokens"] for runs in found.values() for run in runs}) != 1:
        raise SystemExit("contenders found different numbers of tokens")
    done = list(rows(found))
    for row in done:
        print(f"{row['what']}: {row['value']:.3g} against {row['peer']:.3g}, {row['ratio']:.2f}x")
    if given.json:
        print(json.dumps({"rows": done}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        name, cores, folder, small = sys.argv[2:]
        print(json.dumps(child(name, int(cores), Path(folder), Path(small))))
    else:
        main()
