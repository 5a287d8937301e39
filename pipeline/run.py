"""The plot, on one screen: one video becomes rows. The model and the way to its frames come in from
outside, so that the same lines run in one process, on a cluster and in a test.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from pipeline.decode import decode_chunk, narrow
from pipeline.keep import NOT_KEPT, SessionKeeper
from pipeline.merge import WindowAnswers, merge_windows
from pipeline.parse import parse_reply
from pipeline.probe import probe
from pipeline.questions import prompts_sha256
from pipeline.windows import Window, plan_windows
from schemas.events import VideoResult, VideoRow
from schemas.job import JobSpec, QuerySpec
from schemas.media import FrameBatch, StreamIndex, VideoSource
from schemas.plan import Chunk, FrameGrid, VideoPlan
from schemas.ports import FilledSession, VideoModel

IndexSource = Callable[[VideoSource, str], StreamIndex]
FrameSource = Callable[[StreamIndex, VideoPlan, int], Iterable[FrameBatch]]
"""The frames of a plan's chunks from a number on, in order."""
Progress = Callable[[float], None]
"""Told how many seconds of the video are in the KV cache."""


def run_video(
    source: VideoSource,
    video_id: str,
    job: JobSpec,
    model: VideoModel,
    frames: FrameSource,
    progress: Progress = lambda _seconds: None,
    keeper: SessionKeeper = NOT_KEPT,
    asked: Collection[str] | None = None,
    read_index: IndexSource = probe,
) -> VideoResult:
    """Read one video, mostly in one context, and answer its questions. Raises LongtakeError.

    `asked` names the queries that are answered; None: all. The others count in the plan, so that a
    question added later sees the frames that it would have seen among all.
    """
    index = read_index(source, video_id)
    windows = plan_windows(index, job, model.facts, model.counter)
    queries = [query for query in job.queries if asked is None or query.id in asked]
    answers, num_corrupt = [], 0
    for window in windows:
        keeping = keeper.begin(model, window.plan, index.video_id)
        for batch in frames(index, window.plan, keeping.num_chunks):
            keeping.feed(batch)
            progress(_seconds_until(batch, windows[0].plan))
        num_corrupt += keeping.num_corrupt
        answers.append(answer(keeping.finish(), window, queries))
    requests, events = merge_windows(answers, [window.plan for window in windows])
    return VideoResult(
        video_id=index.video_id,
        video_uri=source.uri,
        video=describe(index, windows, num_corrupt, keeper.notes()),
        requests=requests,
        events=events,
        prompts=prompts_sha256([window.ask(queries) for window in windows]),
        window_tokens=tuple(window.plan.total_tokens for window in windows),
    )


def answer(session: FilledSession, window: Window, queries: Sequence[QuerySpec]) -> WindowAnswers:
    """Ask a window and read what it says."""
    replies = session.ask(window.ask(queries))
    parsed = [
        parse_reply(reply, query, window.plan)
        for reply, query in zip(replies, queries, strict=True)
    ]
    rows, events = tuple(row for row, _ in parsed), (found for _, found in parsed)
    return WindowAnswers(rows, tuple(event for found in events for event in found))


def _seconds_until(batch: FrameBatch, first: VideoPlan) -> float:
    span = first.sampling.span
    return float(batch.frame_pts[-1] * span.time_base - span.start_s)


def probe_piece(piece: tuple[VideoSource, str]) -> StreamIndex:
    """Probe one video as a piece of work of its own: `(source, video_id)`."""
    return probe(*piece)


def chunk_work(
    index: StreamIndex, plan: VideoPlan, first: int = 0
) -> list[tuple[StreamIndex, Chunk, FrameGrid]]:
    """The plan's chunks from `first` on as independent pieces of work for `decode_piece`."""
    return [(narrow(index, chunk), chunk, plan.sampling.grid) for chunk in plan.chunks[first:]]


def decode_piece(piece: tuple[StreamIndex, Chunk, FrameGrid]) -> FrameBatch:
    """Decode one piece of `chunk_work`, in whichever process it lands."""
    return decode_chunk(*piece)


def describe(
    index: StreamIndex, windows: Sequence[Window], num_corrupt: int, notes: tuple[str, ...] = ()
) -> VideoRow:
    """What was seen of a video, every fallback included."""
    plans = [window.plan for window in windows]
    first, last = plans[0].sampling, plans[-1].sampling
    seen = {pts for plan in plans for pts in plan.sampling.frame_pts}
    seconds = float(last.span.end_s - first.span.start_s)
    return VideoRow(
        container=index.container,
        codec=index.codec,
        width=index.width,
        height=index.height,
        rotation=index.rotation,
        size_bytes=index.size_bytes,
        start_s=float(first.span.start_s),
        end_s=float(last.span.end_s),
        num_frames=index.num_frames,
        mean_fps=index.mean_fps,
        sampled_frames=len(seen),
        effective_fps=len(seen) / seconds,
        step_s=seconds / len(seen),
        frame_width=first.grid.width,
        frame_height=first.grid.height,
        pair_tokens=first.grid.tokens,
        total_tokens=sum(plan.total_tokens for plan in plans),
        num_windows=len(plans),
        num_chunks=sum(len(plan.chunks) for plan in plans),
        num_corrupt=num_corrupt,
        bound_by=first.bound_by,
        notes=(*index.notes, *notes),
        predicted_bytes=max(plan.memory.total_bytes for plan in plans),
    )
