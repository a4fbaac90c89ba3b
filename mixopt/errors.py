"""Every error a user can meet, and what the command line's exit code is for it.

    MixoptError
    ├── JobError          the job file or an argument is wrong                          exit 2
    ├── DataError         a domain's text, a CSV or a manifest cannot be used           exit 2
    ├── InfeasibleSpace   no mixture satisfies the bounds and the epoch caps            exit 2
    ├── SwarmError        too few good runs for the law, or runs it cannot use          exit 2
    ├── ExportError       a backend cannot express the recommendation                   exit 2
    ├── RunFailed         the machines, not the input: workers lost, proxies crashed    exit 3
    └── DeviceLost        a GPU that no longer answers; its worker must end             exit 3

A message says what, where, got, allowed, next step.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MixoptError(Exception):
    """Base of all errors with a message meant for the user."""

    exit_code = 2


class JobError(MixoptError):
    """The job file or a command's argument is wrong."""


class DataError(MixoptError):
    """A domain's text, a table or a manifest cannot be used."""


class InfeasibleSpace(MixoptError):
    """No mixture satisfies the bounds and the epoch caps."""


class SwarmError(MixoptError):
    """The swarm has too few good runs for the law, or runs that it cannot use."""


class ExportError(MixoptError):
    """A backend cannot express the recommendation."""


class RunFailed(MixoptError):
    """The input is fine, but the runs could not be made."""

    exit_code = 3


class DeviceLost(MixoptError):
    """A GPU no longer answers. Nothing in its process can use it again: the worker ends and another takes over."""

    exit_code = 3


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, else all of them."""
    known = sorted(allowed)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(known) or 'none'}."
