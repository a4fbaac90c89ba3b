"""Methods whose answer is the mean that a policy ends in: a run for it, and what is recommended after it.

Source: the papers of `mixopt/methods/doremi.py` and `mixopt/methods/doge.py`.
"""

from __future__ import annotations

from typing import Any

from mixopt.errors import RunFailed
from mixopt.methods.online import limited
from mixopt.policy import OnlinePolicy
from mixopt.rehearsal import begin
from mixopt.runs import RunSpec
from mixopt.study import Recommendation, Study


def fed(study: Study, policy: OnlinePolicy[Any], tokens: int, *, keep: bool = False) -> RunSpec:
    """A run of so many tokens. Raises JobError, before anything is trained, where the policy cannot work with that.

    A policy that adapts is kept within the epoch caps of the real run, as those of online methods are.
    """
    feed = limited(policy, study.space) if policy.needs else policy
    begin(feed, study.space.names, tokens, study.proxy.batch * study.proxy.sequence)
    return RunSpec(feed, study.proxy.lasting(tokens), study.seed, keep)


def recommend(study: Study) -> Recommendation:
    """The last run's answer or, where that breaks a constraint, the nearest allowed mixture and a note of it.

    Raises RunFailed if the run diverged.
    """
    run, space = study.swarm.records[-1], study.space
    if run.error:
        raise RunFailed(f"run {run.spec.id}: {run.why}. A lower proxies.learning_rate helps.")
    policy: Any = run.spec.feed
    own = policy.answer(policy.load(run.state))
    notes = ["No law predicts this mixture: it is the mean of the proportions that one run went through."]
    if broken := space.violations(own):
        notes.append(f"That mean is not allowed here, the nearest allowed mixture is given: {'; '.join(broken)}.")
    evidence = {"how": "averaged", "proposer_notes": tuple(notes)}
    return Recommendation(space.nearest(own.array(space.names)), evidence=evidence)
