"""What the benchmark of spans gives its frames, and does with an answer that is cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import find_long
from jobs.show import open_output, read_frame
from pipeline.scenes import spans_of


def test_of_an_answer_that_is_cut_counts_what_came_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = find_long.draw_clip("4k", 1, "nano", tmp_path)
    most = max(clip.asked, key=lambda name: len(spans_of(clip.scene, name)))
    whole = find_long.find_all("nano", clip, tmp_path / "whole")[most]
    monkeypatch.setattr(find_long, "ANSWER_TOKENS", 24)
    cut = find_long.find_all("nano", clip, tmp_path / "cut")[most]
    assert 0 < len(cut) < len(whole)
    assert cut == whole[: len(cut)]


@pytest.mark.parametrize("number", [0, 1])
def test_frames_get_all_the_tokens_that_are_promised(tmp_path: Path, number: int) -> None:
    """Room for a time that was one token too short gave half of them to small frames."""
    clip = find_long.draw_clip("4k", number, "nano", tmp_path)
    find_long.find_all("nano", clip, tmp_path / "out")
    (video,) = read_frame(open_output(str(tmp_path / "out")), "videos").iter_rows(named=True)
    assert video["pair_tokens"] == clip.frames.pair_tokens
