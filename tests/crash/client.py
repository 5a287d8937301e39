"""The command line with the marking model, and a wish to die at a named step of a commit.

`python -m tests.crash.client MARKS STEP OCCURRENCE ARGUMENT…`; STEP `none`: never.

The steps are told by what the process does to the output folder, so the commit's own code needs no
hooks: an audit hook hears of each operation just before it happens.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from jobs import cli, session, start
from tests.counter import Counter
from tests.crash.fakes import MarkingModel
from tests.jobs.fakes import FACTS

STEPS = ("parts_written", "entry_drafted", "entry_linked", "draft_removed", "replaced_dropped")
_ENTRY = re.compile(r"_log/\d+\.json$")
_DRAFT = re.compile(r"_log/[^/]*\.tmp$")
_PART = re.compile(r"(events|requests|videos)/[^/.][^/]*\.parquet$")


class DeathAt:
    """An audit hook that kills this process at the given occurrence of a step."""

    def __init__(self, step: str, occurrence: int) -> None:
        self._step = step
        self._left = occurrence
        self._is_next = False

    def _die(self) -> None:
        self._is_next = False  # A kill is an event too.
        os.kill(os.getpid(), signal.SIGKILL)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._is_next:  # What was told before has happened now.
            self._die()
        if event not in ("open", "os.link", "os.remove"):
            return
        path = str(arguments[1] if event == "os.link" else arguments[0])
        before = {
            "parts_written": event == "open" and _DRAFT.search(path) and "w" in str(arguments[1]),
            "entry_drafted": event == "os.link" and _ENTRY.search(path),
            "entry_linked": event == "os.remove" and _DRAFT.search(path),
        }
        after = {
            "draft_removed": event == "os.remove" and _DRAFT.search(path),
            "replaced_dropped": event == "os.remove" and _PART.search(path),
        }
        if before.get(self._step) or after.get(self._step):
            self._left -= 1
            if self._left == 0:
                if before.get(self._step):
                    self._die()
                self._is_next = True


def main() -> None:
    marks, step, occurrence, *rest = sys.argv[1:]
    session.load_facts = lambda _spec: (FACTS, Counter())
    start.model_maker = lambda _spec, _digest: partial(MarkingModel, Path(marks))
    if step != "none":
        sys.addaudithook(DeathAt(step, int(occurrence)))
    sys.argv = ["longtake", *rest]
    cli.main()


if __name__ == "__main__":
    main()
