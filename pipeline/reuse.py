"""One session for many passes over one haystack: exact reuse of what they share.

Promises the session of a pass read from the beginning, chunk for chunk: what is kept are the chunks
before the first pixel that differs, and shorter plans are cut from longer ones. A chunk that a plan
cuts is fed for it, taken back and fed whole. Costs one KV cache, of the longest plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from schemas.media import FrameBatch
from schemas.plan import VideoPlan
from schemas.ports import FilledSession, FillingSession, VideoModel

Frames = Callable[[VideoPlan, int, int], Iterator[FrameBatch]]
"""The frames of a plan's chunks [first, stop), in order."""


@dataclass(slots=True)
class SharedSession:
    """A model with the session that it filled last."""

    model: VideoModel
    is_exact: bool = True
    """Whether a session may be taken back without a trace; else each pass begins anew."""
    prefilled_tokens: int = 0
    """Video tokens that went through the model, over all passes."""
    _haystack: str = ""
    _filling: FillingSession | None = None
    _bare_chunks: int = field(default=0)
    """Leading chunks that hold the bare haystack."""

    def read(
        self,
        haystack: str,
        whole: VideoPlan,
        plans: Sequence[VideoPlan],
        touched_pts: int | None,
        frames: Frames,
    ) -> Iterator[tuple[int, FilledSession]]:
        """(number of the plan, its filled session), one after the other.

        `haystack` names the bare pixels, `whole` is the longest plan on them, `plans` are its
        beginnings, ascending; `touched_pts` is the first frame that differs from the bare haystack,
        None where none does. A session may be asked until the next one is taken.
        """
        filling = self._filling
        if filling is None or haystack != self._haystack or not self.is_exact:
            self._filling = None  # Its memory first.
            filling = self._filling = self.model.begin(whole)
            self._haystack, self._bare_chunks = haystack, 0
        shared = _chunks_before(whole, touched_pts)
        kept = min(self._bare_chunks, shared)
        filling.rewind(kept)
        filling.replan(whole)
        self._bare_chunks = kept
        yield from self._go(filling, whole, plans, shared, frames)

    def _go(
        self,
        filling: FillingSession,
        whole: VideoPlan,
        plans: Sequence[VideoPlan],
        shared: int,
        frames: Frames,
    ) -> Iterator[tuple[int, FilledSession]]:
        stops = [_common_chunks(whole, plan) for plan in plans]
        stream = frames(whole, filling.num_chunks, max(stops))
        for number, (plan, stop) in enumerate(zip(plans, stops, strict=True)):
            while filling.num_chunks < stop:
                self._feed(filling, whole, next(stream))
                self._bare_chunks = min(filling.num_chunks, shared)
            filling.replan(plan)
            for batch in frames(plan, stop, len(plan.chunks)):
                self._feed(filling, plan, batch)
            yield number, filling.finish()
            filling.rewind(stop)
            filling.replan(whole)

    def _feed(self, filling: FillingSession, plan: VideoPlan, batch: FrameBatch) -> None:
        self.prefilled_tokens += plan.chunks[filling.num_chunks].num_tokens
        filling.feed(batch)


def _chunks_before(plan: VideoPlan, pts: int | None) -> int:
    """Chunks whose frames all come before `pts`."""
    if pts is None:
        return len(plan.chunks)
    return sum(chunk.frame_pts[-1] < pts for chunk in plan.chunks)


def _common_chunks(whole: VideoPlan, plan: VideoPlan) -> int:
    """Leading chunks that two plans share."""
    pairs = zip(whole.chunks, plan.chunks, strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), len(plan.chunks))
