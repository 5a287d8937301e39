"""The whole path, nothing faked: real files, bundled checkpoint, embedded cluster, Parquet."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
import yaml
from rich.console import Console

from jobs.cli import load_job
from jobs.manifest import find_videos
from jobs.session import run_job
from jobs.show import open_output, read_frame
from jobs.tools import load_facts
from pipeline.probe import probe
from pipeline.scoring import match_spans
from pipeline.windows import plan_windows
from sample_media.generate import EXPECTED, HERE
from schemas.job import JobSpec

DEMO = HERE / "demo.yaml"


def known(name: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((EXPECTED / f"{name}.json").read_text())
    return facts


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> JobSpec:
    """The demo job with the files that cannot be read in full, in a folder of its own."""
    folder = tmp_path_factory.mktemp("job")
    spec = yaml.safe_load(DEMO.read_text())
    names = [Path(video).name for video in spec["videos"]]
    names += ["one_frame.mp4", "torn_tail.mkv", "not_a_video.mp4", "missing.mp4"]
    spec["videos"] = [str(HERE / name) for name in names]
    spec["output"] = str(folder / "out")
    (folder / "job.yaml").write_text(yaml.safe_dump(spec))
    return load_job(str(folder / "job.yaml"))


@pytest.fixture(scope="module")
def rows(job: JobSpec) -> dict[str, pl.DataFrame]:
    run_job(job, Console(quiet=True))
    log = open_output(job.output)
    return {name: read_frame(log, name) for name in ("events", "requests", "videos")}


def test_every_request_has_a_row(job: JobSpec, rows: dict[str, pl.DataFrame]) -> None:
    requests = rows["requests"]
    assert requests.height == len(job.videos) * len(job.queries)
    assert requests.select("video_uri", "query_id").is_unique().all()
    bad = requests.filter(pl.col("status") == "input_failed")
    names = sorted({Path(uri).name for uri in bad["video_uri"]})
    assert names == ["missing.mp4", "not_a_video.mp4"]
    assert set(requests["status"]) == {"found", "no_event", "input_failed"}


def test_what_was_found_is_what_was_drawn(rows: dict[str, pl.DataFrame]) -> None:
    hits = num_truth = num_found = 0
    for row in rows["requests"].filter(pl.col("status") != "input_failed").iter_rows(named=True):
        facts = known(Path(row["video_uri"]).name)
        seconds = facts["duration_s"] * (1 if facts["is_whole"] else 0.5)
        wanted = f"a {row['query_id'].replace('_', ' ')}"
        truth = [
            (event["start_s"], event["end_s"])
            for event in facts["events"]
            if event["find"] == wanted and event["end_s"] <= facts["start_s"] + seconds
        ]
        events = rows["events"].filter(
            (pl.col("video_uri") == row["video_uri"]) & (pl.col("query_id") == row["query_id"])
        )
        found = events.select("start_s", "end_s").rows()
        matched = match_spans(found, truth, 0.5)
        hits, num_truth = hits + len(matched), num_truth + len(truth)
        num_found += len(found)
    assert num_truth >= 12
    assert hits >= 0.9 * num_truth
    assert hits >= 0.9 * num_found


def test_every_time_was_seen_by_the_second_tool_too(rows: dict[str, pl.DataFrame]) -> None:
    assert rows["events"].height > 0
    for row in rows["events"].iter_rows(named=True):
        other = known(Path(row["video_uri"]).name)["second_tool"]
        base = Fraction(row["time_base_num"], row["time_base_den"])
        theirs = {pts * Fraction(other["time_base"]) for pts in other["pts"]}
        start, end = row["start_pts"] * base, row["end_pts"] * base
        assert start < end
        # Where one frame is all there is, the end is the clip's own.
        assert {start, end} <= theirs or row["video_uri"].endswith("one_frame.mp4")
        assert float(start) == row["start_s"]
        assert float(end) == row["end_s"]
        assert row["uncertainty_s"] > 0
        assert 0 < row["confidence"] <= 1


def test_every_time_was_really_sampled(job: JobSpec, rows: dict[str, pl.DataFrame]) -> None:
    facts, counter = load_facts(job.model)
    sampled: dict[str, set[int]] = {}
    for source in (wanted.source for wanted in find_videos(job)):
        if source.uri in set(rows["videos"]["video_uri"]):
            index = probe(source, "0" * 64)
            (window,) = plan_windows(index, job, facts, counter)
            plan = window.plan
            sampled[source.uri] = set(plan.sampling.frame_pts)
            if plan.sampling.num_frames == 1:
                sampled[source.uri].add(index.end_pts)
    for row in rows["events"].iter_rows(named=True):
        assert {row["start_pts"], row["end_pts"]} <= sampled[row["video_uri"]]
        assert set(row["evidence_pts"]) <= sampled[row["video_uri"]]


def test_times_are_on_the_files_own_clock(rows: dict[str, pl.DataFrame]) -> None:
    late = rows["events"].filter(pl.col("video_uri").str.ends_with("late_start.ts"))
    assert late.height > 0
    assert late["start_s"].min() >= 100  # type: ignore[operator]


def test_what_was_seen_is_written_down(rows: dict[str, pl.DataFrame]) -> None:
    videos = {Path(row["video_uri"]).name: row for row in rows["videos"].iter_rows(named=True)}
    assert len(videos) == 10
    assert videos["several_events.mp4"]["effective_fps"] == pytest.approx(2.0)
    assert videos["turned.mov"]["rotation"] == 90
    assert videos["one_frame.mp4"]["sampled_frames"] == 1
    assert videos["odd_frames.avi"]["sampled_frames"] == 50
    assert videos["odd_frames.avi"]["num_frames"] == 199
    assert videos["torn_tail.mkv"]["notes"][0].startswith("truncated: ")
    assert {row["pair_tokens"] for row in videos.values()} == {20}


def test_any_reader_sees_the_same(job: JobSpec, rows: dict[str, pl.DataFrame]) -> None:
    for name, ours in rows.items():
        pattern = f"{job.output}/{name}/*.parquet"
        assert pl.read_parquet(pattern).sort(pl.all().exclude("attributes")).height == ours.height
        (count,) = duckdb.sql(f"select count(*) from read_parquet('{pattern}')").fetchall()[0]
        assert count == ours.height


def test_the_same_command_again_changes_nothing(
    job: JobSpec, rows: dict[str, pl.DataFrame]
) -> None:
    summary = run_job(job.model_copy(update={"videos": job.videos[:-1]}), Console(quiet=True))
    assert summary.num_kept == len(job.videos) - 1
    again = read_frame(open_output(job.output), "events")
    assert again.equals(rows["events"])
