"""`events.jsonl`: what happens in a full run, one JSON object a line, appended by the first worker.

After a restart the lines that the checkpoint does not know are cut, so that the file is as if nothing had happened. A
`checkpoint` line is written when the checkpoint is complete, which may be some steps after its own.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixopt.files import write_atomically


class Events:
    """Appends events; a `path` of None swallows them, as every worker but the first does."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.Lock()  # checkpoints end in a thread of their own

    def append(self, kind: str, step: int, tokens: int, rest: Mapping[str, Any] | None = None) -> None:
        """Write one line, whole."""
        if self.path is None:
            return
        line = json.dumps({"kind": kind, "step": step, "tokens": tokens, **(rest or {})}, allow_nan=False) + "\n"
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def cut(self, step: int, checkpoint: dict[str, Any] | None) -> None:
        """Go back to this step, of which `checkpoint` is the event: it may not have been written before the end came."""
        if self.path is None:
            return
        kept = [event for event in read(self.path) if event["step"] <= step and not _superseded(event, step)]
        if checkpoint is not None and checkpoint not in kept:
            kept.append(checkpoint)
        write_atomically(self.path, "".join(json.dumps(event) + "\n" for event in kept))


def _superseded(event: dict[str, Any], step: int) -> bool:
    """A start from this step that is now made again."""
    return event["kind"] == "start" and (event["step"] == step or step == 0)


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a last one that a killed writer left torn is no event."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]
