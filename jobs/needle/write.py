"""The files beside the table: report.html, heat-map as PNG and SVG, rows in LongVA's form."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import polars as pl
from PIL import Image

from jobs.children import CallLost, one_child
from jobs.needle.evaluate import Evaluation
from jobs.needle.heatmap import heatmaps, to_png, to_svg
from jobs.needle.longva import longva_json
from jobs.needle.report import ReportFacts, Worst, report_html, worst_rows
from jobs.provenance import library_versions, longtake_version, machine_text
from jobs.start import limits_of
from pipeline.commit_log import CommitLog
from pipeline.decode import decode_chunk, narrow
from pipeline.needle_pass import PassWork
from pipeline.probe import probe
from pipeline.stage import hide
from schemas.errors import LongtakeError
from schemas.media import VideoSource
from schemas.plan import Chunk, FrameGrid, PatchPair
from schemas.time import seconds_to_pts

FILES = ("report.html", "heatmap.svg", "heatmap.png", "longva.json")


def needle_rows(log: CommitLog, keys: Sequence[str]) -> pl.DataFrame:
    """The rows of an evaluation's passes as it is asked now; others may lie in the same output."""
    table = pl.DataFrame(log.read("needles"))
    return table.filter(pl.col("unit_key").is_in(list(keys)))


def write_report(done: Evaluation, rows: pl.DataFrame) -> list[str]:
    """Write all of `FILES`; returns where they are, the report first. Nothing without rows."""
    store = done.log.store
    if not rows.is_empty():
        worst = [Worst(_picture(done, row), row) for row in worst_rows(rows)]
        chart = heatmaps(rows)
        files = {
            "report.html": report_html(rows, _about(done), worst).encode(),
            "heatmap.svg": to_svg(chart).encode(),
            "heatmap.png": to_png(chart),
            "longva.json": longva_json(rows).encode(),
        }
        for name, data in files.items():
            store.put(name, data)
    return [f"{store}/{name}" for name in FILES]


def _about(done: Evaluation) -> ReportFacts:
    ready = done.ready
    spent = sum(entry.tokens for entry in done.log.state().live.values() if entry.place)
    return ReportFacts(
        model=ready.facts.name,
        model_digest=ready.facts.digest,
        longtake_version=longtake_version(),
        library_versions=library_versions(),
        machine=machine_text(),
        seed=ready.spec.seed,
        date=datetime.now(UTC).date().isoformat(),
        prefilled_tokens=spent,
        naive_tokens=ready.naive_tokens,
    )


def _picture(done: Evaluation, row: Mapping[str, Any]) -> bytes | None:
    """The frame in the needle's middle as the model's file had it; None without a needle, or where
    the file cannot be had any more."""
    works = {work.key: work for work in done.ready.works}
    work = works.get(row["unit_key"])
    if work is None or not work.insertions or row["truth_start_s"] is None:
        return None
    middle = Fraction(row["truth_start_pts"] + row["truth_end_pts"], 2)
    base = Fraction(row["time_base_num"], row["time_base_den"])
    limits = limits_of(done.ready.spec.cluster)
    with one_child() as child:
        try:
            return child.call(frame_png, (work, middle * base), limits)
        except (LongtakeError, CallLost, OSError):
            return None


def frame_png(work: tuple[PassWork, Fraction]) -> bytes:
    """One frame of a pass's file, as PNG: the needles are hidden once more for it."""
    own, moment_s = work
    target = own.spliced.with_suffix(".shot.mp4")
    try:
        spliced = hide((own.haystack, target, own.insertions, own.form))
        index = probe(VideoSource(own.uri, str(target)), spliced.sha256)
        wanted = seconds_to_pts(moment_s, index.time_base)
        pts = max(int(one) for one in index.frame_pts if one <= wanted)
        chunk = Chunk(0, (PatchPair(pts, pts, "", 0),))
        batch = decode_chunk(narrow(index, chunk), chunk, FrameGrid(index.height, index.width, 1))
    finally:
        target.unlink(missing_ok=True)
    data = io.BytesIO()
    Image.fromarray(batch.rgb[0]).save(data, "PNG")
    return data.getvalue()
