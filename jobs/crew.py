"""The workers of a cluster as the client knows them, and when there are too few to go on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from jobs.cluster import DECODE, MODEL
from jobs.dask_context import Answer
from schemas.errors import ResourceError

_MOST_FALLS = 3
"""How often workers may end while they get ready before a role without any is given up."""


@dataclass(slots=True)
class Crew:
    """Workers by address."""

    ready: dict[str, frozenset[str]] = field(default_factory=dict)
    """Workers that take work, with their roles."""
    asked: set[str] = field(default_factory=set)
    """Workers that were asked to get ready and have not answered."""
    refused: dict[str, Answer] = field(default_factory=dict)
    condemned: set[str] = field(default_factory=set)
    """Workers that are being killed for a task that ran too long."""
    falls: int = 0
    """Looks that found somebody gone who was getting ready, since every role had a worker."""
    whole_s: float = field(default_factory=time.monotonic)
    """When every role last had a worker or somebody was getting ready, on the monotonic clock."""

    def keep(self, present: set[str]) -> None:
        """Forget those that are gone."""
        self.falls += not self.asked <= present
        self.ready = {a: roles for a, roles in self.ready.items() if a in present}
        self.refused = {a: answer for a, answer in self.refused.items() if a in present}
        self.asked &= present
        self.condemned &= present

    def unknown(self, present: set[str]) -> set[str]:
        return present - set(self.ready) - set(self.refused) - self.asked

    def with_role(self, role: str) -> list[str]:
        return sorted(a for a, r in self.ready.items() if role in r and a not in self.condemned)

    @property
    def missing(self) -> list[str]:
        return [role for role in (MODEL, DECODE) if not self.with_role(role)]

    def check(self, within_s: float) -> None:
        """Raises ResourceError where a role has had no worker for `within_s`, not even one that was
        getting ready, or where too many ended while they did."""
        now_s = time.monotonic()
        missing = self.missing
        if not missing:
            self.falls = 0
        if self.asked or not missing:
            self.whole_s = now_s
        elif now_s - self.whole_s > within_s or self.falls >= _MOST_FALLS:
            raise self._shortage(missing, within_s)

    def _shortage(self, missing: list[str], waited_s: float) -> ResourceError:
        names = " and no ".join(role.removeprefix("longtake-") for role in missing)
        if self.falls:
            times = "once" if self.falls == 1 else f"{self.falls} times"
            sentence = (
                f"the cluster has no {names} worker left: {times} one ended while it got ready, as "
                "it does where loading the model takes more memory than there is; "
                "`longtake doctor` on its machine shows what that has."
            )
        else:
            flag = "both" if len(missing) == 2 else missing[0].removeprefix("longtake-")
            sentence = (
                f"the cluster has no {names} worker, after {waited_s:.0f} s of waiting; start one "
                f"with `longtake worker ADDRESS --role {flag}`."
            )
        return ResourceError(sentence, reason="no_worker")
