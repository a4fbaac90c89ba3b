"""What it costs that policies are told something: the steps of a run that hears, against those of one that does not.

    python benchmarks/policies.py [--json] [--smoke]

Both go through the same mixture, a 1m proxy on 8 generated domains: one fed by a fixed mixture, the others by a policy of
20 rounds that asks for one signal. A round is one step here, so that nothing is dearer in a search. The runs take their
steps in turn, in one process of one thread, again and again from the start; a number is the median CPU time of a step.

What has to be reached is that hearing the training losses, which come with every step, costs at most 2 %. What is measured
only where a round ends is told in training steps, and as a part of the training of a run of 20 tokens a parameter.

`--smoke` runs it in tiny sizes, to see that it works.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.proxy_cases import Advance, Case, Row, corpus, good, row, show
from mixopt.domains import Manifest
from mixopt.mixture import Mixture, Segment
from mixopt.policy import Feedback, Gram, Signal, Train, Valid
from mixopt.runs import RunSpec
from pipelines.progress import Bars
from proxies.parameters import init
from proxies.program import program
from proxies.resident import placed
from proxies.signals import gram
from proxies.sizes import shape
from proxies.tokens import Sampler, TokenStore
from proxies.train import Stack, Trainer

DOMAINS, ROUNDS, REPEATS, REACH = 8, 20, 10, 0.98
GRAM = Gram(4)
SIGNALS: dict[str, Signal] = {"training losses": Train(), "held-out losses": Valid(1.0), "Gram matrix": GRAM}
FULL, TINY = Case("1m", 4096, 4, ROUNDS), Case("10k", 64, 2, ROUNDS)


@dataclass(frozen=True)
class Hears:
    """The same mixture in rounds, and deaf to what it asks for."""

    mixture: Mixture
    needs: frozenset[Signal]

    def init(self, names: Sequence[str], start: Feedback) -> tuple[int, int]:
        """State: (tokens seen, tokens of the run)."""
        return (0, start.total)

    def segment(self, state: tuple[int, int]) -> Segment:
        """A round."""
        return Segment(self.mixture, state[1] // ROUNDS)

    def update(self, state: tuple[int, int], feedback: Feedback) -> tuple[int, int]:
        """(tokens seen, tokens of the run)."""
        return (feedback.seen, feedback.total)

    def load(self, body: Any) -> tuple[int, int]:
        """(tokens seen, tokens of the run)."""
        seen, total = body
        return seen, total

    def to_json(self) -> dict[str, Any]:
        """What it asks for."""
        return {"policy": "hears", "needs": [repr(signal) for signal in self.needs], "mixture": dict(self.mixture)}


def step_times(
    case: Case, manifest: Manifest, specs: Mapping[str, RunSpec], repeats: int, advance: Advance
) -> dict[str, list[float]]:
    """CPU seconds of each step of these runs, which take their steps in turn."""
    trainer = Trainer(manifest.root)
    rows, seconds = placed(TokenStore(manifest, shape(case.size).sequence), trainer.device), {}
    for repeat in range(1 + repeats):  # the first time nothing counts
        advance("policies")
        stacks = {what: Stack(manifest, rows, [spec], 1, trainer) for what, spec in specs.items()}
        for stack in stacks.values():
            stack.chunk = 1
        for _ in range(case.steps - 1):  # the last one is followed by what ends a run
            for what, stack in stacks.items():
                began = time.process_time()
                good(list(stack.turn()))
                if repeat:
                    seconds.setdefault(what, []).append(time.process_time() - began)
    return seconds


def hearing(case: Case, repeats: int, advance: Advance) -> Iterator[Row]:
    """A row for each signal; the reach is for the training losses."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = corpus(Path(folder), case.vocabulary, DOMAINS)
        (deaf,) = case.specs(manifest, 1)
        growth = gram_memory(case, manifest, deaf) / 1e6
        specs = {"deaf": deaf}
        for what, signal in SIGNALS.items():
            specs[what] = replace(deaf, feed=Hears(deaf.feed.mixture, frozenset({signal})))
        seconds = step_times(case, manifest, specs, repeats, advance)
    median = {what: statistics.median(found) for what, found in seconds.items()}
    rates = {what: case.step / found for what, found in median.items()}
    step = f"{case}: a step that is heard"
    note = {
        "steps": len(seconds["deaf"]),
        "milliseconds": {what: round(1e3 * found, 2) for what, found in median.items()},
    }
    yield row(f"{step}, tokens per CPU second", rates["training losses"], rates["deaf"], REACH, **note)
    whole = 20 * shape(case.size).parameters / case.step
    for what in ("held-out losses", "Gram matrix"):
        steps = median[what] / median["deaf"] - 1
        yield row(f"{case}: {what}, steps a measurement takes", steps, None, part_of_run=ROUNDS * steps / whole)
    gradients = 4 * DOMAINS * program(deaf.proxy, case.vocabulary, compiled=False).layout.sizes["head"] / 1e6
    yield row(f"{case}: gradients of {DOMAINS} heads for a Gram matrix, MB", gradients, None, process_grew_by=growth)


def gram_memory(case: Case, manifest: Manifest, spec: RunSpec) -> int:
    """Bytes by which this process grows at most while it works out one Gram matrix."""
    steps_of = program(spec.proxy, case.vocabulary, compiled=False)
    store = TokenStore(manifest, spec.proxy.sequence)
    sampler = Sampler(store, manifest.names, [store.blocks(name) for name in manifest.names], case.batch, spec.seed)
    blocks_DN = sampler.coming(np.zeros(DOMAINS, dtype=np.int64), GRAM.rows)
    weights, rows = init(steps_of.layout, spec.seed), torch.from_numpy(store.gather(blocks_DN))
    gram(steps_of, weights, rows[:1, :1])  # loads libraries
    Path("/proc/self/clear_refs").write_text("5")  # the most that was resident is what is
    before = resident("VmHWM")
    gram(steps_of, weights, rows)
    return resident("VmHWM") - before


def resident(what: str) -> int:
    """Bytes of this process by a line of its status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def main() -> None:
    """Measure, print, and end with the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end standard output with one JSON object")
    parser.add_argument("--smoke", action="store_true", help="in tiny sizes")
    asked = parser.parse_args()
    case, repeats = (TINY, 2) if asked.smoke else (FULL, REPEATS)
    torch.set_num_threads(1)
    rows = []
    with Bars().task("policies", 1 + repeats) as advance:
        for found in hearing(case, repeats, lambda _: advance(1)):
            rows.append(found)
            show(found)
    if asked.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
