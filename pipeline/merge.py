"""Step 6b: answers of neighbouring windows → answers of the video.

Promises that the order of events does not matter, that an event joins at most one event of the next
window, and that gaps do not add up: what one event bridges in all stays within one sampling step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from schemas.errors import InvariantError
from schemas.events import Event, RequestRow, RequestStatus
from schemas.plan import PatchPair, VideoPlan

MAX_EVIDENCE = 8
_WORST = (
    RequestStatus.PARSE_FAILED,
    RequestStatus.TRUNCATED,
    RequestStatus.FOUND,
    RequestStatus.ANSWERED,
)
"""The first of these that a window ended with is how the video ended."""


@dataclass(frozen=True, slots=True)
class WindowAnswers:
    """What one window gave: a row per question and its events."""

    requests: tuple[RequestRow, ...]
    events: tuple[Event, ...]


def merge_windows(
    answers: Sequence[WindowAnswers], plans: Sequence[VideoPlan]
) -> tuple[tuple[RequestRow, ...], tuple[Event, ...]]:
    """Rows and events of the video, of windows in order; those of one window as they are."""
    if len(answers) == 1:
        return answers[0].requests, answers[0].events
    chains = _chains(answers, _longest_step(plans))
    events = sorted((_joined(chain) for chain in chains), key=_order)
    columns = zip(*(answer.requests for answer in answers), strict=True)
    return tuple(_merge_rows(rows, plans, events) for rows in columns), tuple(events)


def _longest_step(plans: Sequence[VideoPlan]) -> int:
    """Longest wait between two patch pairs of any window, in ticks."""
    pts = [[pair.first_pts for c in plan.chunks for pair in c.pairs] for plan in plans]
    return max((later - earlier for part in pts for earlier, later in pairwise(part)), default=0)


def _order(event: Event) -> tuple[object, ...]:
    return (event.query_id, event.start_pts, event.end_pts, event.label, event.attributes)


@dataclass(slots=True)
class _Chain:
    """Events of successive windows that are one, and the ticks that were bridged between them."""

    events: list[Event]
    bridged: int = 0

    def gap(self, event: Event) -> int:
        """Ticks between the last of them and `event`; below zero where they overlap."""
        last = self.events[-1]
        return max(last.start_pts, event.start_pts) - min(last.end_pts, event.end_pts)

    def takes(self, event: Event, step: int) -> bool:
        last = self.events[-1]
        same = (last.query_id, last.label, last.attributes)
        if same != (event.query_id, event.label, event.attributes):
            return False
        return self.bridged + max(0, self.gap(event)) <= step


def _chains(answers: Sequence[WindowAnswers], step: int) -> list[_Chain]:
    """Join each window's events to the chains that reach into the window before; what overlaps most
    goes first, ties by time."""
    ended: list[_Chain] = []
    open_: list[_Chain] = []
    for window, answer in enumerate(answers):
        events = [
            replace(event, window_index=window) for event in sorted(answer.events, key=_order)
        ]
        pairs = [
            (chain.gap(event), _order(chain.events[0]), _order(event), chain, event)
            for chain in open_
            for event in events
            if chain.takes(event, step)
        ]
        joined: set[int] = set()
        grown: set[int] = set()
        for gap, _, _, chain, event in sorted(pairs, key=lambda pair: pair[:3]):
            if id(chain) not in grown and id(event) not in joined:
                chain.events.append(event)
                chain.bridged += max(0, gap)
                grown.add(id(chain))
                joined.add(id(event))
        ended += [chain for chain in open_ if id(chain) not in grown]
        fresh = [_Chain([event]) for event in events if id(event) not in joined]
        open_ = [chain for chain in open_ if id(chain) in grown] + fresh
    return ended + open_


def _joined(chain: _Chain) -> Event:
    """One event of a chain: all of its time, as sure as its least sure part."""
    first = chain.events[0]
    if len(chain.events) == 1:
        return first
    evidence = sorted({pts for event in chain.events for pts in event.evidence_pts})
    count = min(MAX_EVIDENCE, len(evidence))
    return replace(
        first,
        start_pts=min(event.start_pts for event in chain.events),
        end_pts=max(event.end_pts for event in chain.events),
        uncertainty_s=max(event.uncertainty_s for event in chain.events),
        confidence=min(event.confidence for event in chain.events),
        evidence_pts=tuple(evidence[k * len(evidence) // count] for k in range(count)),
        merged_from=tuple(f"{e.window_index}:{e.start_pts}..{e.end_pts}" for e in chain.events),
    )


def _merge_rows(
    rows: Sequence[RequestRow], plans: Sequence[VideoPlan], events: Sequence[Event]
) -> RequestRow:
    """One question's row: how its worst window ended, and what each window said."""
    first = rows[0]
    if any(row.query_id != first.query_id for row in rows):
        raise InvariantError("windows answered their questions in different orders.")
    found = [row for status in _WORST for row in rows if row.status is status]
    worst = found[0] if found else first
    return replace(
        worst,
        num_events=sum(event.query_id == first.query_id for event in events),
        num_dropped=sum(row.num_dropped for row in rows),
        answer="\n".join(_said(row, plan) for row, plan in zip(rows, plans, strict=True)),
        answer_tokens=sum(row.answer_tokens for row in rows),
    )


def _said(row: RequestRow, plan: VideoPlan) -> str:
    span = plan.sampling.span
    times = (PatchPair.text_of(pts, pts, span.time_base) for pts in (span.start_pts, span.end_pts))
    return f"{' to '.join(times)}: {row.answer}"
