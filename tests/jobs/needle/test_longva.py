"""Rows in LongVA's form."""

from __future__ import annotations

import json

from jobs.needle.longva import longva_json, longva_rows
from tests.jobs.needle.helpers import control, frame_of, what, when


def test_what_is_averaged_for_each_number_of_frames_and_depth() -> None:
    frame = frame_of(
        what(sampled_frames=512, depth=1.0),
        what(depth=0.1 * 3),
        what(depth=0.3, is_correct=False),
        when(9.0, depth=0.3),
        control("other_needle", False, depth=0.3),
    )
    assert longva_rows(frame) == [
        {"Num. Frame": 256, "Frame Depth": 30.0, "Score": 0.5},
        {"Num. Frame": 512, "Frame Depth": 100.0, "Score": 1.0},
    ]


def test_the_file_has_exactly_the_keys_that_longva_reads() -> None:
    (row,) = json.loads(longva_json(frame_of(what())))
    assert list(row) == ["Num. Frame", "Frame Depth", "Score"]


def test_nothing_to_tell_is_an_empty_list() -> None:
    assert json.loads(longva_json(frame_of(when()))) == []
