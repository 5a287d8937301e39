"""Rows of the `needles` table as an evaluation writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from jobs.needle.report import ReportFacts
from schemas.events import NEEDLES

STEP_S = 0.5
ABOUT = ReportFacts(
    model="nano",
    model_digest="sha256:0",
    longtake_version="0.1.0",
    library_versions={"torch": "2.13.0", "polars": "2.1.0"},
    machine="Linux x86_64",
    seed=7,
    date="2026-09-01",
    prefilled_tokens=1000,
    naive_tokens=3500,
)
_BASE: dict[str, Any] = {
    "job_id": "needle-0",
    "unit_key": "u0",
    "video_id": "0" * 64,
    "video_uri": "drawn/haystack-0.mp4",
    "query_id": "r0.c0.main.what",
    "haystack": 0,
    "length": "6k",
    "total_tokens": 6144,
    "sampled_frames": 256,
    "clip_s": 128.0,
    "step_s": STEP_S,
    "depth": 0.5,
    "placed_depth": 0.5,
    "needle": "code",
    "num_needles": 1,
    "control": "",
    "question": "what",
    "asked": "Which code stands beside the red circle?",
    "expected": "K7QF",
    "answer": "K7QF",
    "status": "answered",
    "is_correct": True,
    "needle_frames": 2,
    "truth_start_s": 64.0,
    "truth_end_s": 65.0,
    "truth_start_pts": 64000,
    "truth_end_pts": 65000,
    "time_base_num": 1,
    "time_base_den": 1000,
    "said_start_s": None,
    "said_end_s": None,
    "offset_s": None,
    "iou": None,
    "model_id": "nano",
    "model_digest": "sha256:0",
    "schema_version": "1",
    "created_at": datetime(2026, 9, 1, tzinfo=UTC),
}
_NO_TRUTH = dict.fromkeys(
    ("truth_start_s", "truth_end_s", "truth_start_pts", "truth_end_pts", "placed_depth")
)


def what(**said: Any) -> dict[str, Any]:
    """A right answer to *what*, but for what is said."""
    return _BASE | said


def when(offset_s: float | None = 0.0, **said: Any) -> dict[str, Any]:
    """An answer to *when*, judged by its distance."""
    is_correct = offset_s is not None and abs(offset_s) <= STEP_S + 0.05
    moment = None if offset_s is None else (65.0 if offset_s > 0 else 64.0) + offset_s
    judged = {
        "question": "when",
        "asked": "At what time is the code K7QF on screen?",
        "expected": "64.0 to 65.0",
        "answer": "none" if moment is None else f"{moment:.1f}",
        "is_correct": is_correct,
        "said_start_s": moment,
        "said_end_s": moment,
        "offset_s": offset_s,
        "iou": None if offset_s is None else (0.5 if is_correct else 0.0),
    }
    return _BASE | judged | said


def control(name: str, is_correct: bool, **said: Any) -> dict[str, Any]:
    """A question of a control; `is_correct` as the judge says it."""
    own: dict[str, Any] = {"control": name, "is_correct": is_correct}
    if name != "scrambled":
        answer = "none" if is_correct else "K7QF"
        own |= _NO_TRUTH | {"expected": "none", "answer": answer, "needle_frames": 0}
    if name == "no_needle":
        own["depth"] = None
    return _BASE | own | said


def frame_of(*rows: dict[str, Any]) -> pl.DataFrame:
    """A table with the schema that is written."""
    table = pl.DataFrame(pa.Table.from_pylist(list(rows), schema=NEEDLES))
    assert isinstance(table, pl.DataFrame)
    return table


def grid(lengths: int = 6, depths: int = 11) -> pl.DataFrame:
    """A whole evaluation with some misses, some needles that no frame shows, and all controls."""
    rows = []
    for at in range(lengths):
        tokens = 6144 + at * 5120
        size = {
            "length": f"{tokens // 1000}k",
            "total_tokens": tokens,
            "sampled_frames": tokens // 24,
        }
        for deep in range(depths):
            for number, kind in enumerate(("code", "image", "clip")):
                place = {**size, "depth": deep / (depths - 1), "needle": kind}
                luck = (at * 31 + deep * 17 + number * 7) % 23
                frames = 0 if luck == 22 and kind == "clip" else 2
                is_right = luck > at and frames > 0
                answer = "K7QF" if is_right else "K7QE"
                rows.append(what(**place, is_correct=is_right, answer=answer, needle_frames=frames))
                off = [0.0, 0.25, -0.5, 3.5, None][0 if luck > at + 2 else luck % 5]
                rows.append(when(off, **place, needle_frames=frames))
                for name in ("other_needle", "scrambled"):
                    is_right = (name == "other_needle") == (luck != 1)
                    for question in ("what", "when"):
                        said = {**place, "question": question}
                        rows.append(control(name, is_right and luck != 2, **said))
                bare = {**size, "needle": kind}
                rows.append(control("no_needle", luck != 3 or at < 5, **bare))
                rows.append(control("no_needle", True, question="when", **bare))
    return frame_of(*rows)
