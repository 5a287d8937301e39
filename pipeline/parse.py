"""Step 6: Reply → RequestRow + Events.

Promises that every emitted time lies inside its clip, that start comes before end, and that both
are frames which were really seen. What cannot be repaired is dropped and counted, never silently.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

from schemas.errors import InputError
from schemas.events import Event, RequestRow, RequestStatus
from schemas.job import QuerySpec
from schemas.plan import PatchPair, VideoPlan
from schemas.ports import Reply
from schemas.time import clock_to_seconds

MAX_EVIDENCE = 8


@dataclass(frozen=True, slots=True)
class SeenTimes:
    """What was seen of a clip: the sampled frames, and the time that each pair was shown under."""

    frame_pts: tuple[int, ...]
    pair_pts: tuple[int, ...]
    """First frame of each patch pair."""
    pair_seconds: tuple[Fraction, ...]
    """The time printed before each pair, unrounded; increasing."""
    clip_end_pts: int
    clip_start_s: Fraction
    clip_end_s: Fraction
    time_base: Fraction

    @staticmethod
    def of(plan: VideoPlan) -> SeenTimes:
        span = plan.sampling.span
        pairs = [pair for chunk in plan.chunks for pair in chunk.pairs]
        middle = PatchPair.middle_seconds
        return SeenTimes(
            plan.sampling.frame_pts,
            tuple(pair.first_pts for pair in pairs),
            tuple(middle(pair.first_pts, pair.last_pts, span.time_base) for pair in pairs),
            span.end_pts,
            span.start_s,
            span.end_s,
            span.time_base,
        )

    def nearest_pair(self, seconds: Fraction) -> int:
        """Index of the pair whose printed time is nearest to `seconds`; the earlier on a tie."""
        at = bisect_left(self.pair_seconds, seconds)
        if at == 0:
            return 0
        if at == len(self.pair_seconds):
            return at - 1
        before, after = self.pair_seconds[at - 1], self.pair_seconds[at]
        return at - 1 if seconds - before <= after - seconds else at

    def snap(self, start_s: Fraction, end_s: Fraction) -> tuple[int, int]:
        """Sampled (start, end) pts of a span in seconds that meets the clip.

        A span that reaches the clip's end stops at the last frame seen: past it nothing is known.
        Where only one frame was sampled at all, the end is the clip's own.
        """
        start = self.pair_pts[self.nearest_pair(start_s)]
        last = self.frame_pts[-1]
        end = last if end_s > self.pair_seconds[-1] else self.pair_pts[self.nearest_pair(end_s)]
        if end <= start:
            later = bisect_right(self.frame_pts, start)
            end = self.frame_pts[later] if later < len(self.frame_pts) else last
        if end <= start:
            before = bisect_left(self.frame_pts, start)
            start, end = (
                (self.frame_pts[before - 1], start) if before else (start, self.clip_end_pts)
            )
        return start, end

    def uncertainty_s(self) -> float:
        """Longest wait between two patch pairs, in seconds: how far off a seen edge may be."""
        gaps = [later - earlier for earlier, later in pairwise(self.pair_seconds)]
        return float(max(gaps, default=self.clip_end_s - self.clip_start_s))


def parse_reply(
    reply: Reply, query: QuerySpec, plan: VideoPlan
) -> tuple[RequestRow, tuple[Event, ...]]:
    """Read one answer. Never raises for what a model says: the row tells how it went."""
    if query.ask is not None:
        return _parse_text(reply, query)
    items = _read_items(reply.text)
    if items is None:
        return _failed(reply, query), ()
    seen = SeenTimes.of(plan)
    uncertainty = seen.uncertainty_s()
    events: list[Event] = []
    for item in items:
        event = _read_event(item, query, seen, reply, uncertainty)
        if event is not None and event not in events:
            events.append(event)
    events.sort(key=lambda event: (event.start_pts, event.end_pts))
    status = RequestStatus.FOUND if events else RequestStatus.NO_EVENT
    return _row(reply, query, status, len(events), len(items) - len(events)), tuple(events)


def _row(
    reply: Reply, query: QuerySpec, status: RequestStatus, num_events: int, num_dropped: int
) -> RequestRow:
    reason = message = ""
    if reply.finish == "truncated":
        status, reason = RequestStatus.TRUNCATED, "answer_too_long"
        message = (
            f"the answer was cut at {reply.num_tokens} tokens; raise max_answer_tokens of query "
            f"{query.id!r}. What came before the cut is kept."
        )
    elif status is RequestStatus.PARSE_FAILED:
        reason, message = "not_the_asked_form", "the answer has not the form that was asked for."
    text = reply.text
    return RequestRow(
        query.id, status, num_events, num_dropped, text, reason, message, reply.num_tokens
    )


def _failed(reply: Reply, query: QuerySpec) -> RequestRow:
    return _row(reply, query, RequestStatus.PARSE_FAILED, 0, 0)


def _parse_text(reply: Reply, query: QuerySpec) -> tuple[RequestRow, tuple[Event, ...]]:
    data = _load(reply.text)
    answer = data.get("answer") if isinstance(data, dict) else None
    if not isinstance(answer, str) or (query.options and answer not in query.options):
        return _failed(reply, query), ()
    return _row(replace(reply, text=answer), query, RequestStatus.ANSWERED, 0, 0), ()


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _read_items(text: str) -> list[Any] | None:
    """The events of an answer; of a truncated one those that are whole. None: not the form."""
    data = _load(text)
    if data is None:
        return _read_whole_items(text)
    if isinstance(data, dict):
        data = data.get("events")
    return data if isinstance(data, list) else None


def _read_whole_items(text: str) -> list[Any] | None:
    opening = text.find("[")
    if opening < 0:
        return None
    decoder, at = json.JSONDecoder(), opening + 1
    items: list[Any] = []
    while True:
        while at < len(text) and text[at] in ", \n\t":
            at += 1
        try:
            item, at = decoder.raw_decode(text, at)
        except ValueError:
            return items
        items.append(item)


def _read_event(
    item: Any, query: QuerySpec, seen: SeenTimes, reply: Reply, uncertainty_s: float
) -> Event | None:
    if not isinstance(item, dict):
        return None
    start_s, end_s = (
        _seconds(item.get("start", item.get("start_time"))),
        _seconds(item.get("end", item.get("end_time"))),
    )
    if start_s is None or end_s is None or start_s > end_s:
        return None
    if start_s >= seen.clip_end_s or end_s < seen.clip_start_s:
        return None
    start, end = seen.snap(max(start_s, seen.clip_start_s), min(end_s, seen.clip_end_s))
    attributes = tuple((name, str(item[name])) for name in query.fields if name in item)
    return Event(
        query.id,
        query.find or "",
        attributes,
        start,
        end,
        seen.time_base,
        uncertainty_s,
        min(1.0, math.exp(reply.mean_logprob)),
        _evidence(seen.frame_pts, start, end),
    )


def _seconds(value: Any) -> Fraction | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return clock_to_seconds(str(value))
    except InputError:
        return None


def _evidence(frame_pts: tuple[int, ...], start: int, end: int) -> tuple[int, ...]:
    inside = frame_pts[bisect_left(frame_pts, start) : bisect_left(frame_pts, end)]
    count = min(MAX_EVIDENCE, len(inside))
    return tuple(inside[k * len(inside) // count] for k in range(count))
