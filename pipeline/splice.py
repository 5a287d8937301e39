"""Needles into a haystack: the groups of pictures that they touch are coded anew, all other packets
are copied byte for byte.

Promises that no time changes, that truth is read back from the written file, and that the written
pixels were looked at again. Costs seconds: two readings of the packets and the decoding of what is
touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import av
import av.packet
import av.video.stream
import numpy as np

from pipeline.art import Art
from pipeline.footage import batch_frames, decode_frames
from pipeline.haystack import HaystackForm, create_mp4, draft_of, write_haystack
from pipeline.probe import open_stream, open_video, probe
from schemas.errors import InvariantError
from schemas.media import RgbArray, StreamIndex, VideoSource

_Packet: TypeAlias = "av.packet.Packet[av.video.stream.VideoStream]"


@dataclass(frozen=True, slots=True)
class Insertion:
    """What replaces or covers the pixels of some frames."""

    first_frame: int
    num_frames: int
    art: Art

    @property
    def end_frame(self) -> int:
        return self.first_frame + self.num_frames


@dataclass(frozen=True, slots=True)
class Truth:
    """When an insertion is on screen, half-open, in ticks of the file's time base."""

    start_pts: int
    end_pts: int


@dataclass(frozen=True, slots=True)
class Spliced:
    """What was written."""

    truths: tuple[Truth, ...]
    """In the order of the insertions as given."""
    touched_pts: tuple[tuple[int, int], ...]
    """Start and end of each row of groups that was coded anew, half-open, in order."""
    time_base: Fraction
    sha256: str
    """Of the target's bytes, hex."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Whole groups that are decoded, painted and coded together: frames start to end."""

    start: int
    end: int
    insertions: tuple[Insertion, ...]
    """All that touch it; they may reach beyond it."""

    def touches(self, insertion: Insertion) -> bool:
        return insertion.first_frame < self.end and self.start < insertion.end_frame


def splice(
    haystack: Path, target: Path, insertions: Sequence[Insertion], form: HaystackForm
) -> Spliced:
    """Write `target`: the haystack with the insertions in it. No frame is added or moved.

    `haystack` was written by `write_haystack` with `form`. Raises InvariantError where insertions
    overlap or lie outside, where it is another kind of file, and where the target, read again, does
    not show what it should.
    """
    index = probe(_source(haystack))
    _check_form(index, form)
    _check_places(insertions, index.num_frames)
    runs = _runs(insertions, index.num_frames, form)
    with draft_of(target) as draft:
        with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
            anew = _encode_runs(index, runs, form, Path(scratch) / "run.mp4")
            _copy(index, draft, anew)
        written = probe(_source(draft))
        _check_timeline(index, written)
        for run in runs:
            _check_pixels(index, written, run, form.fps)
    return Spliced(
        tuple(
            Truth(_pts(written, each.first_frame), _pts(written, each.end_frame))
            for each in insertions
        ),
        tuple((_pts(written, run.start), _pts(written, run.end)) for run in runs),
        written.time_base,
        written.video_id,
    )


def _source(path: Path) -> VideoSource:
    return VideoSource(str(path), str(path.absolute()))


def _pts(index: StreamIndex, frame: int) -> int:
    """When a frame begins; of the frame after the last one, when that one ends."""
    return index.end_pts if frame == index.num_frames else int(index.frame_pts[frame])


def _check_form(index: StreamIndex, form: HaystackForm) -> None:
    regular = (np.diff(index.frame_pts) * index.time_base == Fraction(1, form.fps)).all()
    groups = np.array_equal(index.keyframe_pts, index.frame_pts[:: form.gop_frames])
    size = (index.width, index.height) == (form.width, form.height)
    if not (index.codec == "h264" and regular and groups and size):
        raise InvariantError(
            f"{index.source.uri} is no haystack of {form.width}x{form.height} at {form.fps} fps "
            f"in groups of {form.gop_frames} frames; write it again."
        )


def _check_places(insertions: Sequence[Insertion], num_frames: int) -> None:
    end = 0
    for each in sorted(insertions, key=lambda each: each.first_frame):
        if each.num_frames < 1 or each.first_frame < 0 or each.end_frame > num_frames:
            raise InvariantError(
                f"an insertion of frames {each.first_frame} to {each.end_frame} does not lie in a "
                f"haystack of {num_frames}."
            )
        if each.first_frame < end:
            raise InvariantError(f"two insertions share frame {each.first_frame}.")
        end = each.end_frame


def _runs(insertions: Sequence[Insertion], num_frames: int, form: HaystackForm) -> tuple[_Run, ...]:
    gop = form.gop_frames
    touched = sorted(
        {
            group
            for each in insertions
            for group in range(each.first_frame // gop, (each.end_frame - 1) // gop + 1)
        }
    )
    # A long run is cut, so that memory does not grow with it.
    most = max(1, batch_frames(form.width, form.height) // gop)
    spans: list[tuple[int, int]] = []
    for group in touched:
        if spans and spans[-1][1] == group and group - spans[-1][0] < most:
            spans[-1] = (spans[-1][0], group + 1)
        else:
            spans.append((group, group + 1))
    runs = [_Run(a * gop, min(b * gop, num_frames), ()) for a, b in spans]
    return tuple(
        _Run(run.start, run.end, tuple(each for each in insertions if run.touches(each)))
        for run in runs
    )


def _encode_runs(
    index: StreamIndex, runs: Sequence[_Run], form: HaystackForm, scratch: Path
) -> dict[int, _Packet]:
    """Packets of all runs by the pts of the frame they replace."""
    headers = _headers(index.source)
    anew: dict[int, _Packet] = {}
    for run in runs:
        painted = _paint(_decode(index, run), run, form.fps)
        write_haystack(scratch, form, painted, run.end - run.start, _ignore)
        if _headers(_source(scratch)) != headers:
            raise InvariantError(
                f"the parameter sets of {index.source.uri} are not those that this machine's "
                "encoder makes; write the haystack again."
            )
        packets = list(_packets(_source(scratch)))
        if len(packets) != run.end - run.start:
            raise InvariantError("the encoder made another number of packets than of frames.")
        anew |= {_pts(index, run.start + k): packet for k, packet in enumerate(packets)}
    return anew


def _ignore(_done: int) -> None:
    pass


def _decode(index: StreamIndex, run: _Run) -> RgbArray:
    pts = [_pts(index, frame) for frame in range(run.start, run.end)]
    return decode_frames(index, pts, index.width, index.height)


def _paint(own: RgbArray, run: _Run, fps: int) -> list[RgbArray]:
    """The run's frames with what is inserted; the others as they are."""
    painted = list(own)
    for each in run.insertions:
        first, end = max(each.first_frame, run.start), min(each.end_frame, run.end)
        for frame in range(first, end):
            at = frame - run.start
            painted[at] = each.art.paint(own[at], frame - each.first_frame, each.num_frames, fps)
    return painted


def _headers(source: VideoSource) -> bytes:
    """SPS and PPS as the container keeps them: what every packet is decoded by."""
    with open_video(source) as container:
        return open_stream(container, source).codec_context.extradata or b""


def _packets(source: VideoSource) -> Iterator[_Packet]:
    with open_video(source) as container:
        stream = open_stream(container, source)
        for packet in container.demux(stream):
            if packet.size:  # The last one only says that there are no more.
                yield packet


def _copy(index: StreamIndex, target: Path, anew: dict[int, _Packet]) -> None:
    """The haystack's packets, or the new ones in their place at their times."""
    with open_video(index.source) as source, create_mp4(target) as container:
        stream = open_stream(source, index.source)
        # Opaque: the stream is described by the old one, no encoder is made.
        copied = container.add_stream_from_template(stream, opaque=True)
        for packet in source.demux(stream):
            if packet.size == 0 or packet.pts is None:
                continue
            chosen = anew.get(packet.pts, packet)
            if chosen is not packet:
                chosen.pts, chosen.dts = packet.pts, packet.dts
                chosen.duration, chosen.time_base = packet.duration, packet.time_base
            chosen.stream = copied
            container.mux(chosen)


def _check_timeline(index: StreamIndex, written: StreamIndex) -> None:
    same = (
        written.time_base == index.time_base
        and np.array_equal(written.frame_pts, index.frame_pts)
        and np.array_equal(written.keyframe_pts, index.keyframe_pts)
        and written.end_pts == index.end_pts
    )
    if not same or written.notes:
        raise InvariantError("the spliced file has other times than its haystack.")


def _check_pixels(index: StreamIndex, written: StreamIndex, run: _Run, fps: int) -> None:
    """Every frame of the run shows what was painted, and no other frame does."""
    own, shown = _decode(index, run), _decode(written, run)
    painted = _paint(own, run, fps)
    for at in range(run.end - run.start):
        frame = run.start + at
        if any(each.first_frame <= frame < each.end_frame for each in run.insertions):
            _check_nearer(shown[at], painted[at], own[at], frame)
            continue
        for each in run.insertions:
            k = 0 if frame < each.first_frame else each.num_frames - 1
            absent = each.art.paint(own[at], k, each.num_frames, fps)
            _check_nearer(shown[at], own[at], absent, frame)


def _check_nearer(shown: RgbArray, wanted: RgbArray, other: RgbArray, frame: int) -> None:
    if _distance(shown, wanted) > _distance(shown, other):
        raise InvariantError(f"frame {frame} of the spliced file does not show what it should.")


def _distance(a: RgbArray, b: RgbArray) -> float:
    return float(np.square(a.astype(np.float32) - b.astype(np.float32)).mean())
