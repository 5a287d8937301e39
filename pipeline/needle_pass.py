"""The plot of one pass, on one screen: a haystack with needles in it becomes judged rows.

The same probe, sampling, plan, prefill, questions and parser as in `run`; only the session is one
that earlier passes have filled as far as they share pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from pipeline.grid import Grid, Pass, Rung
from pipeline.haystack import HaystackForm
from pipeline.judge import Said, Seen, judge
from pipeline.merge import WindowAnswers
from pipeline.questions import prompts_sha256
from pipeline.quiz import Asked
from pipeline.reuse import SharedSession
from pipeline.run import answer, describe
from pipeline.splice import Insertion, Spliced
from pipeline.windows import Window, plan_windows
from schemas.events import Event, NeedleRow, RequestRow, VideoResult
from schemas.job import ClusterSpec, JobSpec, ModelSpec, QuerySpec, SamplingSpec, VideoSpec
from schemas.media import FrameBatch, StreamIndex, VideoSource
from schemas.plan import VideoPlan
from schemas.ports import ModelFacts, PromptCounter


@dataclass(frozen=True, slots=True)
class Look:
    """How every length is looked at."""

    model: ModelSpec
    cluster: ClusterSpec
    fps: Fraction
    pair_tokens: int
    longest_pair: int
    """Tokens of the longest patch pair, its time included."""

    def job(self, uri: str, rung: Rung, queries: tuple[QuerySpec, ...]) -> JobSpec:
        """One length as a job would ask for it; its clip is told to the sampling directly."""
        return JobSpec(
            videos=[VideoSpec(uri=uri)],
            queries=list(queries),
            model=self.model,
            cluster=self.cluster,
            sampling=SamplingSpec(
                fps=float(self.fps),
                max_frames=2 * rung.num_pairs,
                pair_tokens=self.pair_tokens,
                video_tokens=rung.num_pairs * self.longest_pair,
            ),
        )


@dataclass(frozen=True, slots=True)
class PassWork:
    """Everything about one pass, made by the client before anything is read."""

    key: str
    """Names it by content."""
    place: str
    uri: str
    """How rows name it."""
    own: Pass
    grid: Grid
    look: Look
    form: HaystackForm
    haystack: Path
    haystack_name: str
    insertions: tuple[Insertion, ...]
    asked: tuple[Asked, ...]

    def named(self, key: str) -> PassWork:
        """The same under its name."""
        return replace(self, key=key)

    @property
    def spliced(self) -> Path:
        """Where the file with the needles lies while it is read."""
        return self.haystack.with_name(f"{self.haystack.stem}-{self.key[:16]}.mp4")

    @property
    def seconds(self) -> float:
        """Video that is read when everything before the first needle is there already."""
        last = self.grid.rungs[self.own.rungs[-1]].clip_s
        first = self.own.starts[0] if self.own.starts else 0
        return float(last) - first / self.form.fps


@dataclass(frozen=True, slots=True)
class Tools:
    """The ways to what runs elsewhere."""

    hide: Callable[[PassWork], Spliced]
    read_index: Callable[[VideoSource, str], StreamIndex]
    frames: Callable[[StreamIndex, VideoPlan, int, int], Iterator[FrameBatch]]
    progress: Callable[[float], None]


def run_pass(work: PassWork, session: SharedSession, tools: Tools) -> VideoResult:
    """Read one pass at all its lengths and judge what is said. Raises LongtakeError."""
    spliced = tools.hide(work) if work.insertions else None
    path = work.spliced if spliced else work.haystack
    video_id = spliced.sha256 if spliced else work.haystack_name
    try:
        index = tools.read_index(VideoSource(work.uri, str(path)), video_id)
        return _read(work, session, tools, index, spliced)
    finally:
        if spliced:
            path.unlink(missing_ok=True)


def _read(
    work: PassWork,
    session: SharedSession,
    tools: Tools,
    index: StreamIndex,
    spliced: Spliced | None,
) -> VideoResult:
    facts, counter = session.model.facts, session.model.counter
    windows = [_window(work, index, number, facts, counter) for number in work.own.rungs]
    whole = _window(work, index, len(work.grid.rungs) - 1, facts, counter).plan
    before = session.prefilled_tokens

    corrupt: list[int] = []

    def frames(plan: VideoPlan, first: int, stop: int) -> Iterator[FrameBatch]:
        for batch in tools.frames(index, plan, first, stop):
            corrupt.append(batch.num_corrupt)
            yield batch
            tools.progress(float(batch.frame_pts[-1] * index.time_base))

    requests: list[RequestRow] = []
    events: list[Event] = []
    rows: list[NeedleRow] = []
    prompts: list[tuple[str, str]] = []
    plans = [window.plan for window in windows]
    touched = spliced.touched_pts[0][0] if spliced else None
    for number, filled in session.read(work.haystack_name, whole, plans, touched, frames):
        window, rung = windows[number], work.own.rungs[number]
        asked = [one for one in work.asked if one.rung == rung]
        queries = [one.query for one in asked]
        said = answer(filled, window, queries)
        requests += said.requests
        events += said.events
        rows += _judged(work, rung, window, asked, said, spliced, counter)
        prompts += prompts_sha256([window.ask(queries)])
    return VideoResult(
        video_id=index.video_id,
        video_uri=work.uri,
        video=describe(index, [windows[-1]], sum(corrupt)),
        requests=tuple(requests),
        events=tuple(events),
        prompts=tuple(prompts),
        window_tokens=(session.prefilled_tokens - before,),
        needles=tuple(rows),
    )


def _window(
    work: PassWork, index: StreamIndex, number: int, facts: ModelFacts, counter: PromptCounter
) -> Window:
    """One length of the pass, planned as a job's clip is."""
    rung = work.grid.rungs[number]
    queries = tuple(one.query for one in work.asked if one.rung == number)
    # The longest length is planned also where nothing is asked at it: its chunks are all others'.
    queries = queries or tuple(one.query for one in work.asked)
    job = work.look.job(work.uri, rung, queries)
    clip = replace(index, source=replace(index.source, clip_s=(Fraction(0), rung.clip_s)))
    (window,) = plan_windows(clip, job, facts, counter)
    return window


def _judged(
    work: PassWork,
    number: int,
    window: Window,
    asked: list[Asked],
    said: WindowAnswers,
    spliced: Spliced | None,
    counter: PromptCounter,
) -> Iterator[NeedleRow]:
    rung, plan = work.grid.rungs[number], window.plan
    last_start_s = Fraction(work.grid.last_start(rung), work.form.fps)
    truths = tuple((t.start_pts, t.end_pts) for t in spliced.truths) if spliced else ()
    texts = {question.query_id: question for question in window.questions}
    for one, row in zip(asked, said.requests, strict=True):
        own = tuple(event for event in said.events if event.query_id == one.query.id)
        question = counter.question_tokens(texts[one.query.id])
        total = plan.prefix_tokens + plan.video_tokens + question
        seen = Seen(
            rung.label,
            work.own.haystack,
            plan,
            total,
            int(last_start_s / plan.sampling.span.time_base),
            truths,
        )
        yield judge(one, Said(row, own), seen)
