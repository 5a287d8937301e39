"""Haystacks: one constant rate, closed groups, the same bytes again; footage of any kind."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.art import CodeArt
from pipeline.footage import decode_frames
from pipeline.haystack import (
    HaystackForm,
    drawn_frames,
    footage_frames,
    overlay,
    write_haystack,
)
from pipeline.probe import probe
from pipeline.scenes import Scene, draw_frame
from sample_media.generate import HERE
from schemas.errors import InputError, InvariantError, ResourceError
from schemas.media import RgbArray, VideoSource
from tests.pipeline.random_scenes import random_scene

FORM = HaystackForm(96, 64, 8)


def scene() -> Scene:
    return random_scene(5, width=96, height=64, duration_s=10, num_tracks=3)


def sample(name: str) -> VideoSource:
    return VideoSource(name, str(HERE / name))


def write(path: Path, num_frames: int = 29) -> list[int]:
    told: list[int] = []
    write_haystack(path, FORM, drawn_frames(scene(), FORM, num_frames), num_frames, told.append)
    return told


def test_a_haystack_is_what_the_probe_calls_regular(tmp_path: Path) -> None:
    told = write(tmp_path / "h.mp4")
    assert told == list(range(1, 30))
    index = probe(VideoSource("h", str(tmp_path / "h.mp4")))
    assert (index.codec, index.width, index.height, index.notes) == ("h264", 96, 64, ())
    seconds = [int(pts) * index.time_base for pts in index.frame_pts]
    assert seconds == [Fraction(k, 8) for k in range(29)]
    assert index.end_pts * index.time_base == Fraction(29, 8)
    assert index.keyframe_pts.tolist() == index.frame_pts[::8].tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["h.mp4"]


def test_no_frame_waits_for_a_later_one(tmp_path: Path) -> None:
    write(tmp_path / "h.mp4")
    with av.open(str(tmp_path / "h.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert len(packets) == 29
    assert all(packet.pts == packet.dts for packet in packets)


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4")
    write(tmp_path / "b.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_the_file_shows_what_was_drawn(tmp_path: Path) -> None:
    write(tmp_path / "h.mp4")
    index = probe(VideoSource("h", str(tmp_path / "h.mp4")))
    shown = decode_frames(index, [int(pts) for pts in index.frame_pts], 96, 64).astype(float)
    drawn = np.stack(list(drawn_frames(scene(), FORM, 29))).astype(float)
    assert np.array_equal(drawn[8], draw_frame(scene(), 1.0))
    assert np.abs(shown - drawn).mean() < 12


def test_frames_that_run_out_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvariantError, match="3 of 9"):
        write_haystack(tmp_path / "h.mp4", FORM, drawn_frames(scene(), FORM, 3), 9, lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="nowhere cannot be written"):
        write(tmp_path / "nowhere" / "h.mp4")


@pytest.mark.parametrize("sides", [(95, 64), (96, 63), (0, 64)])
def test_odd_sizes_are_refused(sides: tuple[int, int]) -> None:
    with pytest.raises(InvariantError, match="even width"):
        HaystackForm(*sides, 8)


def test_overlay_paints_its_frames_only() -> None:
    grey = [np.full((64, 96, 3), 127, np.uint8) for _ in range(12)]
    art = CodeArt("KXR", "", 1, (12, 14), (12, 14))
    painted = list(overlay(iter(grey), [(3, 4, art), (9, 1, art)], 8))
    changed = [not np.array_equal(a, b) for a, b in zip(grey, painted, strict=True)]
    assert [k for k, is_changed in enumerate(changed) if is_changed] == [3, 4, 5, 6, 9]
    assert np.array_equal(painted[4], art.paint(grey[4], 1, 4, 8))


MIXED = ("turned.mov", "late_start.ts", "odd_frames.avi", "variable_rate.mp4")
SECONDS = (32, 40, 24.875, 60)
SLOW = HaystackForm(96, 96, 1)


def fitted(name: str, at_s: float) -> RgbArray:
    """The frame on screen `at_s` seconds after the file's first, as a second reader finds it."""
    with av.open(str(HERE / name)) as container:
        stream = container.streams.video[0]
        frames = container.decode(stream)
        shown = next(frames)
        start_s = shown.time or 0.0
        for frame in frames:
            if (frame.time or 0.0) - start_s > at_s + 1e-6:
                break
            shown = frame
        turned = np.rot90(shown.to_ndarray(format="rgb24"), round(shown.rotation / 90))
    return np.ascontiguousarray(turned)


def inner(frame: RgbArray) -> RgbArray:
    """What is inside the black bars."""
    lit = frame.max(-1) > 0
    rows, cols = np.nonzero(lit.any(1))[0], np.nonzero(lit.any(0))[0]
    return frame[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]


def test_footage_of_all_kinds_follows_one_another() -> None:
    total = 32 + 40 + 25 + 60
    frames = list(footage_frames([sample(name) for name in MIXED], SLOW, total, loop=False))
    assert len(frames) == total
    assert {frame.shape for frame in frames} == {(96, 96, 3)}
    begins = (0, 32, 72, 97)
    for name, begin in zip(MIXED, begins, strict=True):
        whole = fitted(name, 9)
        picture = inner(frames[begin + 9])
        assert max(picture.shape[:2]) == 96
        assert abs(picture.shape[0] / picture.shape[1] - whole.shape[0] / whole.shape[1]) < 0.03
        tops = [int(k * (whole.shape[0] - 1) / (picture.shape[0] - 1)) for k in range(len(picture))]
        lefts = [
            int(k * (whole.shape[1] - 1) / (picture.shape[1] - 1)) for k in range(picture.shape[1])
        ]
        near = whole[tops][:, lefts].astype(float)
        distances = [np.abs(picture - near).mean(), np.abs(picture[::-1, ::-1] - near).mean()]
        assert distances[0] < 10, name
        assert distances[0] < 0.8 * distances[1], name


def test_a_rate_above_the_footages_own_repeats_frames() -> None:
    fast = HaystackForm(64, 48, 16)
    frames = list(footage_frames([sample("odd_frames.avi")], fast, 64, loop=False))
    index = probe(sample("odd_frames.avi"))
    changes = sum(not np.array_equal(a, b) for a, b in pairwise(frames))
    seen = int(np.searchsorted(index.frame_pts * float(index.time_base), 4.0 - 1e-6))
    assert changes == seen - 1


def test_too_short_footage_says_what_to_do() -> None:
    with pytest.raises(InputError) as caught:
        footage_frames([sample("turned.mov"), sample("odd_frames.avi")], SLOW, 90, loop=False)
    assert caught.value.message == (
        "the footage lasts 00:00:57.000 (2 files) and 00:01:30.000 are needed; add footage, set "
        "`haystack.loop: true`, or lower the lengths."
    )


def test_footage_that_loops_begins_again() -> None:
    sources = [sample("turned.mov"), sample("odd_frames.avi")]
    frames = footage_frames(sources, SLOW, 60, loop=True)
    kept = list(islice(frames, 60))
    assert len(kept) == 60
    for k in range(3):
        assert np.array_equal(kept[57 + k], kept[k])
    assert not np.array_equal(kept[56], kept[0])


@pytest.mark.parametrize("name", ["not_a_video.mp4", "missing.mp4"])
def test_a_file_that_cannot_be_decoded_is_named(name: str) -> None:
    with pytest.raises(InputError, match=name):
        footage_frames([sample("turned.mov"), sample(name)], SLOW, 40, loop=False)


def test_footage_is_decoded_as_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(index: object, pts: list[int], width: int, height: int) -> Iterator[RgbArray]:
        for at in pts:
            asked.append(at)
            yield np.zeros((height, width, 3), np.uint8)

    monkeypatch.setattr("pipeline.haystack.letterboxed_frames", counted)
    frames = footage_frames([sample("turned.mov")], SLOW, 10**6, loop=True)
    assert len(list(islice(frames, 40))) == 40
    assert len(asked) == 40
