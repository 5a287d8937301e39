"""What is drawn, and that it can be drawn offline."""

from __future__ import annotations

import io
from typing import Any
from xml.etree import ElementTree

from PIL import Image

from jobs.needle.heatmap import heatmap, heatmaps, to_png, to_svg
from tests.jobs.needle.helpers import control, frame_of, grid, what, when


def _only_panel(spec: dict[str, Any]) -> list[dict[str, Any]]:
    (values,) = spec["datasets"].values()
    assert isinstance(values, list)
    return values


def test_what_and_when_stand_side_by_side_with_their_totals() -> None:
    spec = heatmaps(frame_of(what(), when(9.0))).to_dict()
    titles = [panel["title"]["text"] for panel in spec["hconcat"]]
    assert titles == [
        "what: 1.000 (1 of 1, 0.207 to 1.000)",
        "when: 0.000 (0 of 1, 0.000 to 0.793)",
    ]
    assert "nano" in spec["title"]["text"]


def test_one_question_alone_has_its_map_and_else_a_note() -> None:
    frame = frame_of(what(), when(9.0))
    (panel,) = heatmap(frame, "when").to_dict()["hconcat"]
    assert panel["title"]["text"].startswith("when: 0.000")
    assert "no question about a needle" in to_svg(heatmap(frame_of(what()), "when"))


def test_cells_of_few_questions_say_how_many() -> None:
    few = [cell["few"] for cell in _only_panel(heatmaps(frame_of(what(), what())).to_dict())]
    many = [cell["few"] for cell in _only_panel(heatmaps(frame_of(*[what()] * 10)).to_dict())]
    assert (few, many) == (["n 2"], [""])


def test_a_cell_without_rows_is_empty_and_not_zero() -> None:
    frame = frame_of(
        what(depth=0.0),
        what(depth=1.0, length="11k", total_tokens=11264, is_correct=False),
    )
    spec = heatmaps(frame).to_dict()
    cells = {(cell["length"], cell["depth"]): cell["text"] for cell in _only_panel(spec)}
    assert cells == {("6k\n6,144", "0"): "1.00", ("11k\n11,264", "100"): "0.00"}
    scale = spec["hconcat"][0]["layer"][0]["encoding"]
    assert scale["y"]["scale"]["domain"] == ["0", "100"]
    assert scale["x"]["scale"]["domain"] == ["6k\n6,144", "11k\n11,264"]


def test_a_cell_with_needles_that_no_frame_shows_is_marked() -> None:
    spec = heatmaps(frame_of(what(), what(needle_frames=0, is_correct=False))).to_dict()
    assert [cell["text"] for cell in _only_panel(spec)] == ["0.50*"]
    assert any(line.startswith("*") for line in spec["title"]["subtitle"])


def test_the_picture_decodes_and_has_room_for_every_cell() -> None:
    chart = heatmaps(grid())
    small = Image.open(io.BytesIO(to_png(chart, scale=1))).size
    assert small[0] > 12 * 50
    assert small[1] > 11 * 20
    large = Image.open(io.BytesIO(to_png(chart))).size
    assert abs(large[0] - 2 * small[0]) <= 2


def test_the_drawing_is_one_element_and_shows_every_rate() -> None:
    root = ElementTree.fromstring(to_svg(heatmaps(grid())))
    assert root.tag.endswith("svg")
    told = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert sum(text in ("1.00", "0.67") for text in told) > 100


def test_many_depths_are_drawn_and_hostile_names_are_escaped() -> None:
    rows = [what(depth=at / 100, model_id="<script>&") for at in range(101)]
    svg = to_svg(heatmaps(frame_of(*rows)))
    assert "<script" not in svg
    assert float(ElementTree.fromstring(svg).attrib["height"]) > 800


def test_without_a_question_about_a_needle_the_picture_says_so() -> None:
    chart = heatmaps(frame_of(control("no_needle", True)))
    assert "no question about a needle" in to_svg(chart)
