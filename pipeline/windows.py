"""Step 3c: a video that one context should not hold → windows, each a plan and its questions.

Promises that all windows look at the frames and the frame size of one sampling, that neighbours
share whole patch pairs, and that every pair is in one window at least. One window is the plan of
the whole video, as it always was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

from pipeline.plan import context_tokens, plan_video, resolve_limits
from pipeline.questions import build_questions
from pipeline.sampling import SamplingLimits, clip_span, sample
from schemas.errors import ConfigError, InvariantError
from schemas.job import JobSpec, QuerySpec
from schemas.media import StreamIndex
from schemas.plan import SamplingPlan, VideoPlan
from schemas.ports import ModelFacts, PromptCounter, Question
from schemas.time import TimeSpan

_NO_LIMIT = 10**12


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a video that is read in one context, and what is asked of it."""

    index: int
    plan: VideoPlan
    questions: tuple[Question, ...]
    """All of the job's, whether they are asked this time or not."""

    def ask(self, queries: Sequence[QuerySpec]) -> list[Question]:
        """The questions of some queries, in the queries' order."""
        by_id = {question.query_id: question for question in self.questions}
        return [by_id[query.id] for query in queries]


@dataclass(frozen=True, slots=True)
class Cut:
    """Patch pairs [start, stop) of each window."""

    spans: tuple[tuple[int, int], ...]

    @staticmethod
    def of(pairs: int, windows: int, overlap: int) -> Cut:
        """`windows` spans over `pairs`, as long as one another but for one pair, neighbours sharing
        `overlap`; fewer where that many would not have a pair of their own."""
        windows = max(1, min(windows, pairs - overlap))
        starts = [number * (pairs - overlap) // windows for number in range(windows + 1)]
        return Cut(tuple((start, stop + overlap) for start, stop in pairwise(starts)))

    @property
    def longest(self) -> int:
        return max(stop - start for start, stop in self.spans)


def plan_windows(
    index: StreamIndex,
    job: JobSpec,
    facts: ModelFacts,
    counter: PromptCounter,
    available_bytes: int | None = None,
) -> tuple[Window, ...]:
    """Sampling and plans of one probed video under a job's settings.

    Raises InputError (clip), ConfigError (context) or ResourceError (memory).
    """
    limits = resolve_limits(job, facts, counter, _wordiest(job, clip_span(index)))
    sampling, cut = _sample(index, job, limits)
    windows = []
    for number, (start, stop) in enumerate(cut.spans):
        part = _part(sampling, start, stop)
        questions = build_questions(job.queries, part.span)
        plan = plan_video(
            part,
            facts,
            counter,
            questions,
            context=context_tokens(job, facts),
            prefill_chunk=job.model.prefill_chunk,
            # One more is in the decoder's hand.
            waiting_chunks=job.cluster.lookahead_chunks + 1,
            available_bytes=available_bytes,
        )
        windows.append(Window(number, plan, tuple(questions)))
    return tuple(windows)


def _wordiest(job: JobSpec, span: TimeSpan) -> list[Question]:
    """The questions with the longest times that a window of `span` may be told."""
    whole = build_questions(job.queries, span)
    end = TimeSpan(span.end_pts - 1, span.end_pts, span.time_base)
    return whole + build_questions(job.queries, end)


def _sample(index: StreamIndex, job: JobSpec, limits: SamplingLimits) -> tuple[SamplingPlan, Cut]:
    """One sampling for all windows, and where it is cut."""
    asked = job.sampling
    if asked.windows == 1:
        sampling = sample(index, limits)
        return sampling, Cut.of(_num_pairs(sampling), 1, 0)
    overlap_s = Fraction(str(asked.window_overlap_s))
    if asked.windows == "auto":
        return _as_many_as_needed(index, limits, overlap_s)
    return _so_many(index, limits, asked.windows, overlap_s)


def _as_many_as_needed(
    index: StreamIndex, limits: SamplingLimits, overlap_s: Fraction
) -> tuple[SamplingPlan, Cut]:
    """What is asked for, unbounded, in as few windows as hold it."""
    sampling = sample(index, replace(limits, max_frames=_NO_LIMIT, video_tokens=_NO_LIMIT))
    pairs, overlap = _num_pairs(sampling), _overlap_pairs(sampling, overlap_s)
    room = _room(limits, sampling)
    if pairs <= room:
        return sampling, Cut.of(pairs, 1, 0)
    if room <= overlap:
        raise ConfigError(
            f"a context holds {room} patch pairs of this video and neighbouring windows would "
            f"share {overlap}; lower sampling.window_overlap_s, or raise model.context."
        )
    return sampling, Cut.of(pairs, math.ceil((pairs - overlap) / (room - overlap)), overlap)


def _so_many(
    index: StreamIndex, limits: SamplingLimits, windows: int, overlap_s: Fraction
) -> tuple[SamplingPlan, Cut]:
    """A given number of windows; frame size, then frames, shrink until each fits its context."""
    tokens = windows * limits.video_tokens
    for _ in range(32):
        whole = replace(limits, max_frames=windows * limits.max_frames, video_tokens=tokens)
        sampling = sample(index, whole)
        pairs, overlap = _num_pairs(sampling), _overlap_pairs(sampling, overlap_s)
        cut = Cut.of(pairs, windows, min(overlap, pairs - 1))
        if cut.longest <= _room(limits, sampling):
            return sampling, cut
        # What the longest window may spend on a pair, for all pairs; shrinks until it fits.
        tokens = min(tokens - 1, pairs * (limits.video_tokens // cut.longest))
    raise InvariantError("the windows of a video did not come to fit their context.")


def _room(limits: SamplingLimits, sampling: SamplingPlan) -> int:
    """Patch pairs of this size that one context holds."""
    by_tokens = limits.video_tokens // (limits.overhead_tokens + sampling.grid.tokens)
    return max(1, min(by_tokens, limits.max_frames // 2))


def _num_pairs(sampling: SamplingPlan) -> int:
    return (sampling.num_frames + 1) // 2


def _overlap_pairs(sampling: SamplingPlan, overlap_s: Fraction) -> int:
    """Pairs that neighbours share: an event at the seam must be seen whole by one of them."""
    return max(1, math.ceil(overlap_s / (2 * Fraction(sampling.step_s))))


def _part(sampling: SamplingPlan, start: int, stop: int) -> SamplingPlan:
    """The sampling of pairs [start, stop): its span ends where the next pair begins."""
    if start == 0 and stop >= _num_pairs(sampling):
        return sampling
    pts, span = sampling.frame_pts, sampling.span
    first = span.start_pts if start == 0 else pts[2 * start]
    end = span.end_pts if 2 * stop >= len(pts) else pts[2 * stop]
    inside = pts[2 * start : 2 * stop]
    return replace(sampling, span=TimeSpan(first, end, span.time_base), frame_pts=inside)
