"""The long video that needles are hidden in: frames → one H.264 file of constant rate.

Promises closed groups of pictures of one length, each a keyframe and frames that refer to earlier
ones of the group only, so that `splice` can replace a group and copy the others. The same frames
give the same bytes. Costs one encoding, in the memory of one group and, of footage, one batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path

import av
import av.container

from pipeline.art import Art
from pipeline.footage import letterboxed_frames, pts_at_rate
from pipeline.probe import probe
from pipeline.scenes import Scene, draw_frame
from schemas.errors import InputError, InvariantError, ResourceError
from schemas.media import RgbArray, VideoSource
from schemas.time import seconds_to_clock


@dataclass(frozen=True, slots=True)
class HaystackForm:
    """How a haystack is coded; what is spliced into it must be coded the same."""

    width: int
    height: int
    """In pixels, both even."""
    fps: int
    gop_frames: int = 8
    """Frames of a group of pictures. Short ones make splicing cheap and the file larger."""

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.fps) < 1 or self.width % 2 or self.height % 2:
            raise InvariantError("a haystack has an even width and height and at least 1 fps.")
        # Of two keyframes side by side a decoder must tell where the first ends by a number that
        # copied and new ones may share.
        if self.gop_frames < 2:
            raise InvariantError("a group of pictures has at least two frames.")


def write_haystack(
    path: Path,
    form: HaystackForm,
    frames: Iterable[RgbArray],
    num_frames: int,
    on_frame: Callable[[int], None],
) -> None:
    """Encode the first `num_frames` of `frames`, each (height, width, 3), uint8.

    `on_frame` is told how many are done, after each. The file takes its name when it is whole.
    Raises ResourceError where it cannot be written, InvariantError where the frames run out.
    """
    with draft_of(path) as draft, create_mp4(draft) as container:
        stream = container.add_stream("libx264", rate=form.fps)
        stream.width, stream.height, stream.pix_fmt = form.width, form.height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, form.fps)
        stream.codec_context.thread_count = 1
        stream.options = _options(form)
        done = 0
        for rgb in islice(frames, num_frames):
            if rgb.shape != (form.height, form.width, 3):
                raise InvariantError("a frame of the haystack has another size than its form.")
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            picture.pts, picture.time_base = done, Fraction(1, form.fps)
            container.mux(stream.encode(picture))
            done += 1
            on_frame(done)
        if done < num_frames:
            raise InvariantError(f"the haystack ran out of frames: {done} of {num_frames}.")
        container.mux(stream.encode(None))


def _options(form: HaystackForm) -> dict[str, object]:
    gop = form.gop_frames
    # One thread and no macroblock tree: with either the same frames now and then gave other bytes.
    steady = "threads=1:mbtree=0"
    return {
        "preset": "veryfast",
        "crf": "26",
        "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes=0:open-gop=0:{steady}",
    }


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; renamed to it at the end, removed where that fails.

    Raises ResourceError where the folder cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def create_mp4(path: Path) -> Iterator[av.container.OutputContainer]:
    """A new mp4; the container library's errors of writing leave as a ResourceError."""
    try:
        with av.open(f"file:{path}", "w", format="mp4") as container:
            yield container
    except av.error.FFmpegError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: Exception) -> ResourceError:
    why = getattr(error, "strerror", None) or type(error).__name__
    return ResourceError(
        f"{path.parent} cannot be written ({why}); free space there, or choose another folder."
    )


def drawn_frames(scene: Scene, form: HaystackForm, num_frames: int) -> Iterator[RgbArray]:
    """A scene of the form's size, frame by frame."""
    if (scene.width, scene.height) != (form.width, form.height):
        raise InvariantError("a drawn haystack has the size of its scene.")
    return (draw_frame(scene, k / form.fps) for k in range(num_frames))


def footage_frames(
    sources: Sequence[VideoSource], form: HaystackForm, num_frames: int, *, loop: bool = False
) -> Iterator[RgbArray]:
    """`num_frames` of the user's videos one after the other, at the form's rate and size, black
    where their aspect differs; with `loop` they begin again when they end.

    Every file is probed before the first frame. Raises InputError where one cannot be read, where
    there is none, or where all together are too short.
    """
    indices = [probe(source) for source in sources]
    moments = [pts_at_rate(index, Fraction(form.fps)) for index in indices]
    have = sum(len(pts) for pts in moments)
    if have == 0 or (have < num_frames and not loop):
        raise InputError(_too_short(len(sources), have, num_frames, form.fps), reason="too_short")
    # Looped footage is decoded again: it would not fit the memory.
    rounds = cycle(zip(indices, moments, strict=True))
    frames = (
        frame
        for index, pts in rounds
        for frame in letterboxed_frames(index, pts, form.width, form.height)
    )
    return islice(frames, num_frames)


def _too_short(num_files: int, have: int, need: int, fps: int) -> str:
    lasts, needed = (seconds_to_clock(Fraction(count, fps)) for count in (have, need))
    files = "1 file" if num_files == 1 else f"{num_files} files"
    return (
        f"the footage lasts {lasts} ({files}) and {needed} are needed; add footage, set "
        "`haystack.loop: true`, or lower the lengths."
    )


def overlay(
    frames: Iterable[RgbArray], arts: Sequence[tuple[int, int, Art]], fps: float
) -> Iterator[RgbArray]:
    """The frames with `arts` (first frame, number of frames, what is painted) on them.

    Where several meet, the later of the sequence is on top.
    """
    starts: dict[int, list[int]] = {}
    for number, (first, _, _) in enumerate(arts):
        starts.setdefault(first, []).append(number)
    shown: list[int] = []
    for at, plain in enumerate(frames):
        shown = [i for i in shown if at < arts[i][0] + arts[i][1]]
        shown = sorted(shown + [i for i in starts.get(at, []) if arts[i][1] > 0])
        frame = plain
        for i in shown:
            first, num_frames, art = arts[i]
            frame = art.paint(frame, at - first, num_frames, fps)
        yield frame
