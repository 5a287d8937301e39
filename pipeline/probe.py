"""Step 1: VideoSource → StreamIndex.

Promises the presentation times of all frames as integers, from packets alone, and never opens any
file but the one named. Costs one pass over the file for its digest, one over its packets, and one
decoded frame (the turn a phone's video asks for is told nowhere else).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.container
import numpy as np

from schemas.errors import InputError, LongtakeError
from schemas.media import PtsArray, StreamIndex, VideoSource

FORMATS = "mov,matroska,webm,mpegts,avi"
"""Demuxers that may open: the containers we promise, none that reads a playlist."""
CODECS = frozenset(
    [
        "h264",
        "hevc",
        "vp8",
        "vp9",
        "av1",
        "libdav1d",
        "mpeg4",
        "mpeg2video",
        "mpeg1video",
        "mjpeg",
        "prores",
    ]
)
MAX_PIXELS = 8192 * 4320
"""Largest frame that is decoded: 8K. A decoder allocates by the header, so this comes first."""
_READS = "Longtake reads video in mp4, mov, mkv, webm, ts and avi"
# What a torn tail may miss before it is called truncated, in seconds.
_TAIL_SLACK_S = 1.0


@contextmanager
def open_video(source: VideoSource) -> Iterator[av.container.InputContainer]:
    """The one border to the container library: every error of its leaves as an InputError.

    The path is opened as `file:` with allow-lists for format and protocol, so that text inside an
    "mp4" (ffconcat, HLS, SDP) can open neither another file nor a socket.
    """
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        with av.open(f"file:{source.path}", options=options) as container:
            yield container
    except LongtakeError:
        raise
    except av.error.FFmpegError as error:
        raise foreign_error(source, error) from None


def foreign_error(source: VideoSource, error: av.error.FFmpegError) -> InputError:
    """Turn the decoder library's error into ours; its own text may hold addresses: dropped."""
    if isinstance(error, av.error.PermissionError):
        return InputError(f"{source.uri} may not be read; check its permissions.", reason="denied")
    if isinstance(error, av.error.FileNotFoundError):
        return _missing(source)
    if isinstance(error, av.error.MemoryError):
        return InputError(
            f"{source.uri} asks for more memory than a frame may have.", reason="frame_too_large"
        )
    return InputError(
        f"{source.uri} is not a video that can be read, or is damaged at its start; {_READS}. "
        "Check that it plays, or convert it.",
        reason="not_video",
    )


def check_file(source: VideoSource) -> int:
    """Size in bytes of a plain, non-empty, readable file; InputError for anything else."""
    path = Path(source.path)
    if not path.exists():
        raise _missing(source)
    if path.is_dir():
        raise InputError(
            f"{source.uri} is a directory, not a video; name the files in it.", reason="directory"
        )
    if not path.is_file():
        raise InputError(
            f"{source.uri} is no plain file; copy the video to a file first.", reason="not_a_file"
        )
    if not os.access(path, os.R_OK):
        raise InputError(f"{source.uri} may not be read; check its permissions.", reason="denied")
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{source.uri} is empty (0 bytes); copy it again.", reason="empty_file")
    return size


def _missing(source: VideoSource) -> InputError:
    return InputError(f"{source.uri} does not exist; check the path.", reason="missing_file")


def digest_file(source: VideoSource) -> str:
    """SHA-256 of the file's bytes, hex. Raises InputError where the file cannot be read."""
    check_file(source)
    with Path(source.path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class _Packets:
    pts: PtsArray
    keyframe_pts: PtsArray
    last_duration: int
    notes: tuple[str, ...]


def probe(source: VideoSource, video_id: str = "") -> StreamIndex:
    """Read what the file holds. `video_id` spares the digest where it is known already.

    Raises InputError where there is no video that can be read.
    """
    size = check_file(source)
    with open_video(source) as container:
        stream = _video_stream(container, source)
        time_base = Fraction(stream.time_base or Fraction(1, 1000))
        frame = _first_frame(container, stream, source)
        rotation = round(-frame.rotation) % 360
        width, height = _shown_size(frame.width, frame.height, stream, rotation)
    # Opened again rather than sought: a transport stream does not find its first packets back.
    with open_video(source) as container:
        stream = _video_stream(container, source)
        packets = _read_packets(container, stream, source)
        end_pts = int(packets.pts[-1]) + packets.last_duration
        declared_s = _declared_seconds(container, stream)
        missing_s = _missing_seconds(declared_s, packets, end_pts, time_base)
        notes = packets.notes
        if missing_s > _TAIL_SLACK_S:
            notes = (*notes, f"truncated: the header promises {missing_s:.1f} s more than is there")
        return StreamIndex(
            source=source,
            video_id=video_id or digest_file(source),
            size_bytes=size,
            container=container.format.name,
            codec=stream.codec_context.name,
            width=width,
            height=height,
            rotation=rotation,
            time_base=time_base,
            frame_pts=packets.pts,
            keyframe_pts=packets.keyframe_pts,
            end_pts=end_pts,
            declared_duration_s=declared_s,
            notes=notes,
        )


def _video_stream(
    container: av.container.InputContainer, source: VideoSource
) -> av.video.stream.VideoStream:
    # Cover art in a music file is a video stream of one attached picture; it is not a video.
    streams = [s for s in container.streams.video if not s.disposition & _ATTACHED]
    if not streams:
        raise InputError(f"{source.uri} holds no video stream; {_READS}.", reason="no_video_stream")
    stream = streams[0]
    context = stream.codec_context
    if context is None or context.name not in CODECS:
        given = "an unknown codec" if context is None else context.name
        raise InputError(
            f"{source.uri} is coded as {given}; accepted are H.264, HEVC, VP8, VP9, AV1, "
            "MPEG-1/2/4, MJPEG and ProRes. Convert it.",
            reason="unsupported_codec",
        )
    if context.width * context.height > MAX_PIXELS:
        raise InputError(
            f"{source.uri} has frames of {context.width}x{context.height}; up to 8192x4320 is "
            "decoded. Scale it down.",
            reason="frame_too_large",
        )
    # Only the codec context obeys this option; on the container it is silently ignored.
    context.options = {"max_pixels": str(MAX_PIXELS)}
    # Decoders run side by side, each in its own process; every thread holds frames of its own.
    context.thread_count = 1
    return stream


_ATTACHED = av.stream.Disposition.attached_pic


def open_stream(
    container: av.container.InputContainer, source: VideoSource
) -> av.video.stream.VideoStream:
    """The first real video stream, checked and with its decoder's limits set."""
    return _video_stream(container, source)


def _first_frame(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    source: VideoSource,
) -> av.VideoFrame:
    for packet in container.demux(stream):
        try:
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    return frame
        except av.error.FFmpegError:
            continue  # A damaged packet: the next one may decode.
    raise InputError(
        f"{source.uri} names a video stream but no frame of it decodes; copy it again.",
        reason="no_frame",
    )


def _shown_size(
    width: int, height: int, stream: av.video.stream.VideoStream, rotation: int
) -> tuple[int, int]:
    aspect = stream.sample_aspect_ratio
    if aspect is not None and aspect > 0:
        width = max(1, round(width * aspect))
    return (height, width) if rotation in (90, 270) else (width, height)


def _read_packets(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    source: VideoSource,
) -> _Packets:
    pts: list[int] = []
    keys: list[int] = []
    durations: dict[int, int] = {}
    num_from_dts = 0
    for packet in container.demux(stream):
        time = packet.pts
        if time is None and packet.dts is not None:
            time, num_from_dts = packet.dts, num_from_dts + 1
        if packet.size == 0 or time is None or packet.is_discard:
            continue  # The flush packet, or a frame that an edit list hides.
        pts.append(time)
        durations[time] = packet.duration or 0
        if packet.is_keyframe:
            keys.append(time)
    if not pts:
        raise InputError(f"{source.uri} holds no frames; copy it again.", reason="no_frame")
    unique = np.unique(np.asarray(pts, dtype=np.int64))
    notes = []
    if len(unique) < len(pts):
        notes.append(f"timestamps: {len(pts) - len(unique)} frames share another's time")
    if num_from_dts:
        notes.append(f"timestamps: {num_from_dts} frames have a decoding time only")
    step = int(np.median(np.diff(unique))) if len(unique) > 1 else 1
    last = durations[int(unique[-1])] or max(1, step)
    keyframes = np.unique(np.asarray(keys or [int(unique[0])], dtype=np.int64))
    return _Packets(unique, keyframes, last, tuple(notes))


def _declared_seconds(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream
) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _missing_seconds(
    declared_s: float | None, packets: _Packets, end_pts: int, time_base: Fraction
) -> float:
    if declared_s is None:
        return 0.0
    # Some containers count their duration from the first frame, some from zero.
    counted_from = min(0, int(packets.pts[0])), int(packets.pts[0])
    return declared_s - max(float((end_pts - start) * time_base) for start in counted_from)


def header_seconds(source: VideoSource) -> float:
    """Duration by the header, cut to the clip; 0 where it tells none. Cheap: for progress only."""
    try:
        with open_video(source) as container:
            whole = container.duration / av.time_base if container.duration else 0.0
    except InputError:
        return 0.0
    if source.clip_s is None:
        return whole
    return max(0.0, min(whole, float(source.clip_s[1])) - float(source.clip_s[0]))


def decoder_versions() -> dict[str, str]:
    """The decoder library and the FFmpeg libraries inside it."""
    parts = {name: ".".join(map(str, v)) for name, v in av.library_versions.items()}
    return {"av": av.__version__, **parts}
