"""Table of needle rows → the rows that LongVA's V-NIAH scripts read and draw."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from jobs.needle.rates import main_rows


def longva_rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Mean score of `what` for each number of sampled frames and depth in percent."""
    what = main_rows(frame).filter(pl.col("question") == "what").drop_nulls("depth")
    cells = (
        what.group_by("sampled_frames", "depth")
        .agg(pl.col("is_correct").mean().alias("score"))
        .sort("sampled_frames", "depth")
    )
    return [
        {"Num. Frame": frames, "Frame Depth": round(depth * 100, 4), "Score": score}
        for frames, depth, score in cells.iter_rows()
    ]


def longva_json(frame: pl.DataFrame) -> str:
    """The same as a JSON list."""
    return json.dumps(longva_rows(frame), indent=1) + "\n"
