"""The plot, on one screen: one video becomes rows. The model and the way to its frames come in from
outside, so that the same lines run in one process, on a cluster and in a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pipeline.decode import decode_chunk, narrow
from pipeline.parse import parse_reply
from pipeline.plan import plan_job_video
from pipeline.probe import probe
from pipeline.questions import build_questions, prompt_sha256
from pipeline.sampling import clip_span
from schemas.events import VideoResult, VideoRow
from schemas.job import JobSpec
from schemas.media import FrameBatch, StreamIndex, VideoSource
from schemas.plan import Chunk, FrameGrid, VideoPlan
from schemas.ports import VideoModel

IndexSource = Callable[[VideoSource, str], StreamIndex]
FrameSource = Callable[[StreamIndex, VideoPlan], Iterable[FrameBatch]]
Progress = Callable[[float], None]
"""Told how many seconds of the video are in the KV cache."""


def run_video(
    source: VideoSource,
    video_id: str,
    job: JobSpec,
    model: VideoModel,
    frames: FrameSource,
    progress: Progress = lambda _seconds: None,
    read_index: IndexSource = probe,
) -> VideoResult:
    """Read one video in one context and answer all questions. Raises LongtakeError."""
    index = read_index(source, video_id)
    questions = build_questions(job.queries, clip_span(index))
    plan = plan_job_video(index, job, model.facts, model.counter, questions)
    session = model.begin(plan)
    num_corrupt = 0
    for batch in frames(index, plan):
        session.feed(batch)
        num_corrupt += batch.num_corrupt
        done_s = batch.frame_pts[-1] * index.time_base - plan.sampling.span.start_s
        progress(float(done_s))
    replies = session.finish().ask(questions)
    parsed = [
        parse_reply(reply, query, plan) for reply, query in zip(replies, job.queries, strict=True)
    ]
    return VideoResult(
        video_id=index.video_id,
        video_uri=source.uri,
        video=describe(index, plan, num_corrupt),
        requests=tuple(row for row, _ in parsed),
        events=tuple(event for _, events in parsed for event in events),
        prompts=tuple((question.query_id, prompt_sha256(question)) for question in questions),
    )


def probe_piece(piece: tuple[VideoSource, str]) -> StreamIndex:
    """Probe one video as a piece of work of its own: `(source, video_id)`."""
    return probe(*piece)


def chunk_work(index: StreamIndex, plan: VideoPlan) -> list[tuple[StreamIndex, Chunk, FrameGrid]]:
    """The plan's chunks as independent pieces of work for `decode_piece`."""
    return [(narrow(index, chunk), chunk, plan.sampling.grid) for chunk in plan.chunks]


def decode_piece(piece: tuple[StreamIndex, Chunk, FrameGrid]) -> FrameBatch:
    """Decode one piece of `chunk_work`, in whichever process it lands."""
    return decode_chunk(*piece)


def describe(index: StreamIndex, plan: VideoPlan, num_corrupt: int) -> VideoRow:
    """What was seen of a video, every fallback included."""
    sampling = plan.sampling
    return VideoRow(
        container=index.container,
        codec=index.codec,
        width=index.width,
        height=index.height,
        rotation=index.rotation,
        size_bytes=index.size_bytes,
        start_s=float(sampling.span.start_s),
        end_s=float(sampling.span.end_s),
        num_frames=index.num_frames,
        mean_fps=index.mean_fps,
        sampled_frames=sampling.num_frames,
        effective_fps=sampling.effective_fps,
        step_s=sampling.step_s,
        frame_width=sampling.grid.width,
        frame_height=sampling.grid.height,
        pair_tokens=sampling.grid.tokens,
        total_tokens=plan.total_tokens,
        num_chunks=len(plan.chunks),
        num_corrupt=num_corrupt,
        bound_by=sampling.bound_by,
        notes=index.notes,
        predicted_bytes=plan.memory.total_bytes,
    )
