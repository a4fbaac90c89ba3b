"""A worker of a drill: trains one run directory after another in a single process group, some of them interrupted.

`torchrun ... drill.py DIR...`: a directory that holds `abort` is trained to the step that it names, where all workers
raise, then from the last checkpoint to the end.
"""

from __future__ import annotations

import sys
from pathlib import Path

import olmo_core.distributed.parallel as meshes

from pipelines.full import engine
from pipelines.full.course import Course, load
from pipelines.full.pilot import Pilot


class Interrupted(Exception):
    """What a lost worker looks like to those that train on."""


def train(course: Course, abort: int | None) -> None:
    meshes._WORLD_MESH = None  # the engine makes one for each process
    hear = Pilot.hear

    def interrupted(self: Pilot, *heard: object) -> None:
        hear(self, *heard)
        if self.step == abort:
            raise Interrupted

    Pilot.hear = interrupted
    try:
        engine.run(course)
    except Interrupted:
        pass
    finally:
        Pilot.hear = hear


def main() -> None:
    courses = [load(Path(name)) for name in sys.argv[1:]]
    engine.join(courses[0])
    for course in courses:
        abort = course.searched.directory / "abort"
        if abort.exists():
            train(course, int(abort.read_text()))
        train(course, None)
    engine.leave()


if __name__ == "__main__":
    main()
