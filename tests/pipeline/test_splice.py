"""Spliced needles: nothing but their groups changes, and truth is what decoding shows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.art import Art, CardArt, ClipArt, CodeArt
from pipeline.footage import decode_frames
from pipeline.haystack import HaystackForm, drawn_frames, write_haystack
from pipeline.probe import probe
from pipeline.splice import Insertion, Spliced, splice
from schemas.errors import InvariantError
from schemas.media import RgbArray, StreamIndex, VideoSource
from tests.pipeline.random_scenes import random_scene

FORM = HaystackForm(96, 64, 8)
FRAMES = 61
"""Seven groups of eight and one of five."""


def art(kind: type[Art] = CardArt, seed: int = 1) -> Art:
    return kind("KXR", "red star", seed, (14.0, 16.0), (16.0, 18.0))  # type: ignore[call-arg]


@pytest.fixture(scope="module")
def haystack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hay") / "h.mp4"
    scene = random_scene(5, width=96, height=64, duration_s=10, num_tracks=3)
    write_haystack(path, FORM, drawn_frames(scene, FORM, FRAMES), FRAMES, lambda _: None)
    return path


def index_of(path: Path) -> StreamIndex:
    return probe(VideoSource(path.name, str(path)))


def packets(path: Path) -> dict[int, tuple[int, int, bool, bytes]]:
    with av.open(str(path)) as container:
        return {
            packet.pts or 0: (
                packet.dts or 0,
                packet.duration or 0,
                packet.is_keyframe,
                bytes(packet),
            )
            for packet in container.demux(video=0)
            if packet.size
        }


def decoded(path: Path) -> RgbArray:
    index = index_of(path)
    return decode_frames(index, [int(pts) for pts in index.frame_pts], index.width, index.height)


def differing(haystack: Path, target: Path) -> list[int]:
    """Frames whose pixels differ clearly, by number: coding anew alone stays far below."""
    distance = np.abs(decoded(haystack).astype(float) - decoded(target)).mean((1, 2, 3))
    return [int(k) for k in np.nonzero(distance > 6)[0]]


CASES = {
    "first frame": ((0, 3),),
    "last frames": ((58, 3),),
    "one frame": ((20, 1),),
    "a whole group": ((16, 8),),
    "across a border": ((13, 6),),
    "across the last group": ((50, 11),),
    "two in one group": ((17, 2), (21, 2)),
    "side by side": ((10, 4), (14, 4)),
    "apart, in any order": ((40, 10), (3, 2)),
    "everywhere": ((0, 61),),
}


@pytest.mark.parametrize("places", CASES.values(), ids=CASES)
def test_only_touched_groups_change_and_truth_is_what_decoding_shows(
    places: tuple[tuple[int, int], ...], haystack: Path, tmp_path: Path
) -> None:
    target = tmp_path / "t.mp4"
    insertions = [Insertion(first, num, art(seed=first)) for first, num in places]
    spliced = splice(haystack, target, insertions, FORM)
    inside = {k for first, num in places for k in range(first, first + num)}
    assert differing(haystack, target) == sorted(inside)

    index = index_of(target)
    ends = [*(int(pts) for pts in index.frame_pts), index.end_pts]
    told = [(truth.start_pts, truth.end_pts) for truth in spliced.truths]
    assert told == [(ends[first], ends[first + num]) for first, num in places]
    assert spliced.time_base == index.time_base

    before, after = packets(haystack), packets(target)
    assert list(before) == list(after)
    anew = [k for k, pts in enumerate(before) if before[pts][3] != after[pts][3]]
    groups = {k // 8 for k in inside}
    assert all(before[pts][:3] == after[pts][:3] for pts in before)
    assert anew == [k for k in range(FRAMES) if k // 8 in groups]
    touched = [k for k in range(FRAMES) if is_touched(spliced, ends[k])]
    assert touched == anew
    assert all(a[1] < b[0] for a, b in pairwise(spliced.touched_pts))


def is_touched(spliced: Spliced, pts: int) -> bool:
    return any(start <= pts < end for start, end in spliced.touched_pts)


@pytest.mark.parametrize("kind", [CodeArt, CardArt, ClipArt])
def test_every_art_can_be_spliced(kind: type[Art], haystack: Path, tmp_path: Path) -> None:
    splice(haystack, tmp_path / "t.mp4", [Insertion(5, 14, art(kind))], FORM)
    own, shown = decoded(haystack), decoded(tmp_path / "t.mp4")
    painted = art(kind).paint(own[9], 4, 14, 8.0)
    assert np.abs(shown[9] - painted.astype(float)).mean() < 12
    changed = np.abs(own[9] - painted.astype(float)) > 60
    assert changed.sum() > 100
    assert np.abs(shown[9][changed] - painted[changed].astype(float)).mean() < 25


def test_the_probe_has_nothing_to_note(haystack: Path, tmp_path: Path) -> None:
    target = tmp_path / "t.mp4"
    spliced = splice(haystack, target, [Insertion(30, 9, art())], FORM)
    index, own = index_of(target), index_of(haystack)
    assert index.notes == ()
    assert index.frame_pts.tolist() == own.frame_pts.tolist()
    assert index.keyframe_pts.tolist() == own.keyframe_pts.tolist()
    assert spliced.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["t.mp4"]


def test_the_same_needles_give_the_same_bytes(haystack: Path, tmp_path: Path) -> None:
    insertions = [Insertion(11, 7, art(ClipArt))]
    first = splice(haystack, tmp_path / "a.mp4", insertions, FORM)
    assert splice(haystack, tmp_path / "b.mp4", insertions, FORM) == first
    other = splice(haystack, tmp_path / "c.mp4", [Insertion(12, 7, art(ClipArt))], FORM)
    assert other.sha256 != first.sha256


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (((4, 4), (7, 2)), "share frame 7"),
        (((7, 2), (4, 4)), "share frame 7"),
        (((60, 2),), "does not lie in a haystack of 61"),
        (((-1, 2),), "does not lie"),
        (((4, 0),), "does not lie"),
    ],
)
def test_places_that_cannot_be_are_refused(
    places: tuple[tuple[int, int], ...], message: str, haystack: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvariantError, match=message):
        splice(haystack, tmp_path / "t.mp4", [Insertion(*place, art()) for place in places], FORM)
    assert list(tmp_path.iterdir()) == []


def test_another_form_is_refused(haystack: Path, tmp_path: Path) -> None:
    for form in (HaystackForm(96, 64, 8, 4), HaystackForm(96, 64, 4), HaystackForm(64, 96, 8)):
        with pytest.raises(InvariantError, match=r"is no haystack of"):
            splice(haystack, tmp_path / "t.mp4", [Insertion(4, 4, art())], form)


def test_a_haystack_with_other_parameter_sets_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "h.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.options = {"x264-params": "keyint=8:min-keyint=8:scenecut=0:bframes=0:cabac=0"}
        for k in range(16):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 9 * k, np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(InvariantError, match="the parameter sets of"):
        splice(path, tmp_path / "t.mp4", [Insertion(4, 4, art())], FORM)
    assert not (tmp_path / "t.mp4").exists()


@dataclass
class Fickle:
    """Paints one thing when it is written and another when it is looked at again."""

    calls: int = 0

    def paint(self, frame: RgbArray, k: int, n: int, fps: float) -> RgbArray:
        self.calls += 1
        return np.full_like(frame, 0 if self.calls > n else 255)


def test_pixels_that_are_not_as_painted_are_refused(haystack: Path, tmp_path: Path) -> None:
    with pytest.raises(InvariantError, match="frame 4 of the spliced file does not show"):
        splice(haystack, tmp_path / "t.mp4", [Insertion(4, 4, Fickle())], FORM)
    assert list(tmp_path.iterdir()) == []


@dataclass
class Nothing:
    """Paints what is there already: what it looks like cannot be told from the haystack."""

    def paint(self, frame: RgbArray, k: int, n: int, fps: float) -> RgbArray:
        return frame.copy()


def test_an_art_that_changes_nothing_is_no_contradiction(haystack: Path, tmp_path: Path) -> None:
    spliced = splice(haystack, tmp_path / "t.mp4", [Insertion(4, 4, Nothing())], FORM)
    assert len(spliced.truths) == 1
    assert differing(haystack, tmp_path / "t.mp4") == []
