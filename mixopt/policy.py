"""What feeds a run: an online policy says what to train on next and learns from what was measured.

A policy is pure: its state is a value, `segment` reads it and `update` returns the next one. A static mixture is the
constant policy, a schedule one that looks only at the fraction of training that is done. States are frozen dataclasses,
tuples and numbers, so that `plain` makes JSON of any of them and `load` the same state of that again: a run killed at
any step goes on as if it had not been.

Shapes: D domains, in the order of the run's names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, Protocol, TypeVar

from mixopt.errors import JobError
from mixopt.mixture import FloatArray, Mixture, Schedule, Segment

S = TypeVar("S")


@dataclass(frozen=True)
class Valid:
    """Signal "valid" [D]: held-out losses in nats per token when the segment ends, on this part of the held-out text.

    The only signal that `init` hears too.
    """

    part: float = 1.0
    name = "valid"


@dataclass(frozen=True)
class Train:
    """Signal "train" [D]: mean training losses over the segment, in nats per token; NaN for a domain that was not drawn."""

    name = "train"


@dataclass(frozen=True)
class Excess:
    """Signal "excess" [D]: mean over the segment of max(loss - loss of the reference, 0); NaN for a domain that was not drawn.

    `reference` is the id of a run that kept its weights. `clip` says what the maximum is taken of: each token's
    difference, or a domain's mean difference.
    """

    reference: str
    clip: Literal["token", "domain"] = "token"
    name = "excess"


@dataclass(frozen=True)
class Gram:
    """Signal "gram" [D, D]: inner products of the gradients of the domains' training losses, in the output head alone.

    Each domain's gradient is that of the mean loss of its next `rows` training rows, when the segment ends.
    """

    rows: int = 4
    name = "gram"


@dataclass(frozen=True)
class Drops:
    """Signal "drops" [D, D]: by how much the held-out loss of domain i (row) falls in a probe of domain j (column).

    A probe trains `part` of the run's length (at least a step) with proportion `weight` on j and the rest shared evenly
    by the others; then the run goes on from where it was. What probes train counts as cost. `text` is the part of the
    held-out text that is read before the probes and after each. After a run's last token nothing is probed, and `update`
    is told no drops.
    """

    part: float
    weight: float = 1.0
    text: float = 1.0
    name = "drops"


Signal = Valid | Train | Excess | Gram | Drops


@dataclass(frozen=True)
class Feedback:
    """What the trainer measured after a segment.

    `seen` and `total` are tokens of this run, `step` those of one training step, below which no segment goes; `signals`
    holds arrays by the signal's name, and only those signals that the policy declared. `trained` is what was trained,
    where a limit made that another mixture than the policy asked for.
    """

    seen: int
    total: int
    signals: Mapping[str, FloatArray]
    step: int = 1
    trained: Mixture | None = None


class OnlinePolicy(Protocol[S]):
    """The seam for online methods."""

    @property
    def needs(self) -> frozenset[Signal]:
        """Signals that `update` reads: the trainer measures these and no others (see `asked`)."""

    def init(self, names: Sequence[str], start: Feedback) -> S:
        """The state before the first token. Raises JobError for a start or a budget that cannot work."""

    def segment(self, state: S) -> Segment:
        """What to train on now; reading it changes nothing."""

    def update(self, state: S, feedback: Feedback) -> S:
        """The state after a segment."""

    def load(self, body: Any) -> S:
        """The state of which `plain` made this."""

    def to_json(self) -> dict[str, Any]:
        """Plain data that names the policy and its knobs; the run's identity. `policies.from_json` reads it."""


class Sparing(OnlinePolicy[S], Protocol[S]):
    """A policy that does not read all of its signals after every segment. `needs` holds all that it ever reads."""

    def asks(self, state: S) -> frozenset[Signal]:
        """Signals that `update` reads when the segment of this state ends."""


class Adaptive(OnlinePolicy[S], Protocol[S]):
    """A policy that follows the linear dynamic law L_i(t + 1) = L_i(t) - sum_j A_ij p_j (Aioli, arXiv:2411.05735)."""

    def matrix(self, state: S) -> FloatArray | None:
        """Its A [D, D] now, evaluated domains in rows and trained ones in columns; None before there is one."""


class Averaged(OnlinePolicy[S], Protocol[S]):
    """A policy whose run ends in an answer: DoReMi and DoGE return the mean of what they went through."""

    def answer(self, state: S) -> Mixture:
        """The mixture that the run recommends."""


class Telling(OnlinePolicy[S], Protocol[S]):
    """A policy with something to say about its run, such as the part of its tokens that went into probes."""

    def evidence(self, state: S) -> Mapping[str, float]:
        """Numbers by name."""


def told(policy: OnlinePolicy[Any], body: Any) -> dict[str, float]:
    """What a policy tells of a run that ended in this state, as `plain` made it; nothing for most, or without a state."""
    evidence = getattr(policy, "evidence", None)
    return {} if evidence is None or body is None else dict(evidence(policy.load(body)))


def probe_steps(signal: Drops, steps: int) -> int:
    """Steps of a probe in a run of so many whole steps: one at least."""
    return max(1, round(signal.part * steps))


def asked(policy: OnlinePolicy[S], state: S, *, last: bool = False) -> frozenset[Signal]:
    """Signals to measure when the segment of this state ends: those that the policy `asks` for, or all it `needs`.

    Where the run ends with it there are no probes: nothing is left that they could decide.
    """
    asks = getattr(policy, "asks", None)
    signals = policy.needs if asks is None else asks(state)
    return frozenset(signal for signal in signals if not (last and isinstance(signal, Drops)))


def plain(state: Any) -> Any:
    """A state as JSON has it: mixtures and frozen dataclasses become mappings, tuples lists; floats survive to the last bit."""
    if isinstance(state, Mapping):
        return {key: plain(value) for key, value in state.items()}
    if is_dataclass(state):
        return {field.name: plain(getattr(state, field.name)) for field in fields(state)}
    if isinstance(state, tuple | list):
        return [plain(value) for value in state]
    return state


def tuples(body: Any) -> Any:
    """JSON with tuples for lists, as states and knobs have them; mappings keep their kind."""
    if isinstance(body, Mapping):
        return {key: tuples(value) for key, value in body.items()}
    return tuple(map(tuples, body)) if isinstance(body, list | tuple) else body


def knobs(policy: Any) -> dict[str, Any]:
    """The fields of a policy as plain data, mixtures included."""
    return {field.name: plain(getattr(policy, field.name)) for field in fields(policy)}


def beginning(start: Mixture | None, names: Sequence[str], *, recovers: bool = False) -> Mixture:
    """The first mixture, uniform unless given. Raises JobError for zeros that a multiplicative rule never leaves."""
    if start is None:
        return Mixture.normalised(dict.fromkeys(names, 1.0))
    start.array(names)
    zeros = [name for name in names if start[name] == 0]
    if zeros and not recovers:
        raise JobError(
            f"method.start: gives nothing to {', '.join(zeros)}, and proportions that are multiplied never leave zero. "
            "Start with a little of every domain."
        )
    return start


@dataclass(frozen=True)
class Fixed:
    """The same mixture from the first token to the last."""

    mixture: Mixture
    needs: frozenset[Signal] = frozenset()

    def init(self, names: Sequence[str], start: Feedback) -> int:
        """State: tokens still to train."""
        self.mixture.array(names)
        return start.total

    def segment(self, state: int) -> Segment:
        """All that is left, on the one mixture."""
        return Segment(self.mixture, state)

    def update(self, state: int, feedback: Feedback) -> int:
        """Tokens still to train."""
        return feedback.total - feedback.seen

    def load(self, body: Any) -> int:
        """Tokens still to train."""
        return int(body)

    def to_json(self) -> dict[str, Any]:
        """`{"policy": "fixed", "mixture": {...}}`."""
        return {"policy": "fixed", "mixture": dict(self.mixture)}


@dataclass(frozen=True)
class Scheduled:
    """Planned phases by fraction of training."""

    schedule: Schedule
    needs: frozenset[Signal] = frozenset()

    def init(self, names: Sequence[str], start: Feedback) -> tuple[int, int, int]:
        """State: (tokens seen, tokens of the run, tokens of a step)."""
        for _, mixture in self.schedule.phases:
            mixture.array(names)
        return (start.seen, start.total, start.step)

    def segment(self, state: tuple[int, int, int]) -> Segment:
        """The phase under way, to its end; one of which less than half a step is left is over."""
        seen, total, step = state
        ends = [round(start * total) for start, _ in self.schedule.phases[1:]] + [total]
        for end, (_, mixture) in zip(ends, self.schedule.phases, strict=True):
            if end - seen >= step / 2:
                return Segment(mixture, end - seen)
        return Segment(self.schedule.phases[-1][1], max(0, total - seen))

    def update(self, state: tuple[int, int, int], feedback: Feedback) -> tuple[int, int, int]:
        """(tokens seen, tokens of the run, tokens of a step)."""
        return (feedback.seen, feedback.total, feedback.step)

    def load(self, body: Any) -> tuple[int, int, int]:
        """(tokens seen, tokens of the run, tokens of a step)."""
        seen, total, step = body
        return seen, total, step

    def to_json(self) -> dict[str, Any]:
        """`{"policy": "scheduled", "phases": [[start, {...}], ...]}`."""
        return {"policy": "scheduled", "phases": self.schedule.plain()}
