"""The sample media, against what their maker and a second tool know of them."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np
import psutil
import pytest

from pipeline.decode import decode_chunk, narrow
from pipeline.probe import probe
from pipeline.scenes import Frame, Scene, draw_frame
from sample_media import encode
from sample_media.generate import EXPECTED, HERE, SAMPLES, check
from schemas.media import StreamIndex, VideoSource
from schemas.plan import Chunk, FrameGrid, PatchPair

KNOWN = {path.stem: json.loads(path.read_text()) for path in sorted(EXPECTED.glob("*.json"))}
GRID = FrameGrid(3, 4, 32)


def index_of(name: str) -> StreamIndex:
    return probe(VideoSource(name, str(HERE / name)))


def pairs_of(pts: list[int]) -> tuple[PatchPair, ...]:
    even = pts if len(pts) % 2 == 0 else [*pts, pts[-1]]
    return tuple(PatchPair(a, b, "", 1) for a, b in zip(even[::2], even[1::2], strict=True))


def test_the_committed_media_are_those_described() -> None:
    assert check() == []
    assert sum(path.stat().st_size for path in HERE.iterdir() if path.is_file()) < 5_000_000


SCENE = Scene(1, 96, 64, 2.0, "plain", ())


def stopped(scene: Scene, _: int) -> Iterator[Frame]:
    yield draw_frame(scene, 0.0)
    raise KeyboardInterrupt


@pytest.mark.parametrize("turned", [0, 90])
def test_a_file_has_its_name_once_it_is_whole(
    turned: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scene.mp4"
    encoding = encode.Encoding(fps=4, turned=turned, options={"vcodec": "libx264"})
    with monkeypatch.context() as patched:
        patched.setattr(encode, "frames_of", stopped)
        with pytest.raises(KeyboardInterrupt):
            encode.encode_scene(SCENE, path, encoding)
    assert not path.exists()
    encode.encode_scene(SCENE, path, encoding)
    assert list(tmp_path.iterdir()) == [path]


def test_a_stop_waits_for_what_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, ended = tmp_path / "slow", tmp_path / "ended"
    slow.write_text(f"#!/bin/sh\ncat > {os.devnull}\nsleep 1\ntouch '{ended}'\n")
    slow.chmod(0o755)
    monkeypatch.setattr(encode, "FFMPEG", str(slow))
    monkeypatch.setattr(encode, "frames_of", stopped)
    with pytest.raises(KeyboardInterrupt):
        encode.encode_scene(SCENE, tmp_path / "scene.mp4", encode.Encoding(fps=4))
    assert ended.exists()


@pytest.mark.parametrize("name", KNOWN)
def test_probe_agrees_with_maker_and_second_tool(name: str) -> None:
    known, index = KNOWN[name], index_of(name)
    other = known["second_tool"]
    assert index.video_id == known["sha256"]
    assert (index.width, index.height) == (known["width"], known["height"])
    assert index.rotation == known["rotation"]
    theirs = [p * Fraction(other["time_base"]) for p in other["pts"]]
    ours = [int(p) * index.time_base for p in index.frame_pts]
    if known["is_whole"]:
        assert ours == theirs
        assert index.notes == ()
        assert float(index.span.start_s) == pytest.approx(known["start_s"], abs=0.2)
        assert float(index.span.duration_s) == pytest.approx(known["duration_s"], abs=0.3)
    else:
        # The last packets of a torn file may not decode; nothing else may differ.
        assert theirs == ours[: len(theirs)]
        assert len(theirs) >= 0.8 * len(ours)
        assert index.notes[0].startswith("truncated: the header promises ")


@pytest.mark.parametrize("name", KNOWN)
def test_every_frame_decodes_at_its_own_time_from_any_chunk(name: str) -> None:
    index = index_of(name)
    pts = [int(p) for p in index.frame_pts]
    small = FrameGrid(1, 1, 32)
    pairs = pairs_of(pts)
    whole = decode_chunk(index, Chunk(0, pairs), small)
    assert whole.num_corrupt == 0 or not KNOWN[name]["is_whole"]
    for start in (0, len(pairs) // 3, len(pairs) * 2 // 3, len(pairs) - 1):
        chunk = Chunk(start, pairs[start : start + 5])
        part = decode_chunk(narrow(index, chunk), chunk, small)
        assert part.frame_pts == whole.frame_pts[2 * start : 2 * start + 10]
        assert np.array_equal(part.rgb, whole.rgb[2 * start : 2 * start + 10])


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_decoded_pictures_are_the_drawn_ones(sample: Any) -> None:
    """Upright, in the right colours, at the right time."""
    index = index_of(sample.name)
    pts = [int(p) for p in index.frame_pts][:: max(1, index.num_frames // 7)]
    size = FrameGrid(sample.scene.height // 32, sample.scene.width // 32, 32)
    batch = decode_chunk(index, Chunk(0, pairs_of(pts)), size)
    for pts_here, picture in zip(batch.frame_pts, batch.rgb, strict=True):
        time_s = float(pts_here * index.time_base) - sample.start_s
        drawn = draw_frame(sample.scene, round(time_s * 8) / 8).astype(float)
        assert np.abs(picture.astype(float) - drawn).mean() < 14


def test_decoding_leaves_nothing_behind() -> None:
    """Many decoders run side by side: one thread each, and frames go when they were used."""
    index = index_of("several_events.mp4")
    pts = [int(p) for p in index.frame_pts[::8]]
    chunks = [Chunk(i // 4, pairs_of(pts[i : i + 4])) for i in range(0, len(pts), 4)]
    process = psutil.Process()
    gc.collect()
    gc.disable()
    try:
        before = process.num_threads()
        for chunk in chunks:
            decode_chunk(index, chunk, GRID)
        assert process.num_threads() <= before
        assert not any(type(left) is av.VideoFrame for left in gc.get_objects())
    finally:
        gc.enable()


def test_expected_files_are_complete() -> None:
    assert {sample.name for sample in SAMPLES} == set(KNOWN)
    assert Path(HERE / "not_a_video.mp4").is_file()


@pytest.mark.parametrize("name", ["several_events.mp4", "variable_rate.mp4", "nothing_there.mkv"])
def test_a_third_tool_agrees_on_sound_files(name: str) -> None:
    """decord is no decoder for untrusted files; on our own it is one more witness."""
    reader = decord.VideoReader(str(HERE / name), num_threads=1)
    theirs = [float(reader.get_frame_timestamp(i)[0]) for i in range(len(reader))]
    index = index_of(name)
    ours = [float(int(pts) * index.time_base) for pts in index.frame_pts]
    assert theirs == pytest.approx(ours, abs=1e-3)
