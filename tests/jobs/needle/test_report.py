"""The report: whole, self-contained, harmless and plain."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
import pytest

from jobs.needle.report import Worst, report_html, worst_rows
from tests.jobs.needle.helpers import ABOUT, control, frame_of, grid, what, when

_HOSTILE = "<script>alert(1)</script><img src=x onerror='y'>\"&"


def _report(frame: pl.DataFrame, picture: bytes | None = None) -> str:
    return report_html(frame, ABOUT, [Worst(picture, row) for row in worst_rows(frame)])


class _Tags(HTMLParser):
    """Every opening tag with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_it_is_one_file_without_scripts_and_references() -> None:
    page = _report(grid(), b"png")
    assert "<script" not in page
    addresses = set(re.findall(r"https?://[^\"'\s<]*", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    for tag, attributes in _Tags(page).seen:
        assert tag not in ("link", "iframe", "object")
        assert (attributes.get("src") or "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)


def test_headers_have_scope_and_pictures_have_words() -> None:
    tags = _Tags(_report(grid(), b"png")).seen
    assert all(attributes.get("scope") for tag, attributes in tags if tag == "th")
    pictures = [attributes for tag, attributes in tags if tag == "img"]
    assert pictures
    assert all(attributes["alt"] for attributes in pictures)
    assert any(attributes.get("aria-label") for _, attributes in tags)


@pytest.mark.parametrize(
    "field", ["answer", "asked", "expected", "video_uri", "needle", "model_id"]
)
def test_what_others_wrote_is_text(field: str) -> None:
    row = what(is_correct=False) | {field: _HOSTILE}
    page = _report(frame_of(row))
    assert "<script" not in page
    assert "<img" not in page


def test_hostile_facts_are_text_too() -> None:
    about = replace(ABOUT, model=_HOSTILE, machine=_HOSTILE, library_versions={_HOSTILE: _HOSTILE})
    assert "<script" not in report_html(frame_of(what()), about, [])


def test_a_picture_is_in_the_file() -> None:
    page = _report(frame_of(what(is_correct=False)), b"\x89PNG")
    assert f"data:image/png;base64,{base64.b64encode(bytes([137]) + b'PNG').decode()}" in page
    jpeg = _report(frame_of(what(is_correct=False)), b"\xff\xd8\xff")
    assert "data:image/jpeg;base64," in jpeg
    assert "<img" not in _report(frame_of(what(is_correct=False)))


def test_totals_intervals_and_controls_are_told() -> None:
    frame = frame_of(what(), what(needle_frames=0, is_correct=False), control("no_needle", True))
    page = _report(frame)
    assert "1 of 2, 0.095 to 0.905" in page
    assert "sampled only: 1.000 (1 of 1, 0.207 to 1.000)" in page
    assert "no needle: 0 of 1 false alarms (0.000, 95 % 0.000 to 0.793)." in page
    assert "up to 3.5 times as many" in page


def test_a_needle_that_nobody_saw_is_no_worst_case() -> None:
    frame = frame_of(what(is_correct=False, needle_frames=0))
    assert worst_rows(frame) == []
    assert "no sampled needle was missed" in _report(frame)


def test_the_worst_come_first_and_times_from_the_farthest() -> None:
    frame = frame_of(
        control("no_needle", False, query_id="alarm"),
        when(3.0, query_id="near"),
        when(None, query_id="silent"),
        when(-30.0, query_id="far"),
        when(0.5, query_id="right"),
        control("scrambled", False, query_id="fine"),
        what(is_correct=False, query_id="missed"),
        what(query_id="hit"),
    )
    names = [row["query_id"] for row in worst_rows(frame)]
    assert names == ["missed", "far", "near", "silent", "alarm"]
    assert [row["query_id"] for row in worst_rows(frame, limit=2)] == ["missed", "far"]
    page = _report(frame)
    assert "Wrong: when, 30.00 s too early" in page
    assert "Wrong: when, no time said" in page
    assert "False alarm, no needle: what" in page


def test_where_nothing_is_wrong_the_report_says_so() -> None:
    frame = frame_of(what(), when(0.0, query_id="on"), when(-0.5, query_id="off"))
    assert [row["query_id"] for row in worst_rows(frame)] == ["off", "on"]
    page = _report(frame)
    assert "Nothing wrong: the right times farthest off" in page
    assert "Right: when, 0.50 s too early" in page
    assert "Worst cases" not in page


def test_failed_questions_are_told() -> None:
    page = _report(frame_of(what(status="model_failed", is_correct=False, answer="")))
    assert "1 of 1 questions gave no usable answer" in page
    assert "(empty)" in page


def test_a_report_of_controls_alone_is_a_report() -> None:
    page = _report(frame_of(control("no_needle", True)))
    assert "No question about a needle was asked" in page
    assert "No controls were asked" in _report(frame_of(what()))
