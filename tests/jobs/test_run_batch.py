"""A row for every (video, question), one commit per unit, and nothing done twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.dataset as ds
import pytest
from rich.console import Console

from jobs import session
from jobs.executor import SerialExecutor
from jobs.run_batch import BatchSummary
from jobs.show import open_output, read_frame
from pipeline.audit import rows_sha256
from sample_media.generate import HERE
from schemas.errors import ConfigError
from schemas.job import read_job
from tests.jobs.fakes import FACTS, FakeModel
from tests.pipeline.test_plan import Counter

FOUND = 'say {"events": [{"start": 3.0, "end": 9.0}]}'
QUERIES = [
    {"id": "found", "find": FOUND},
    {"id": "none", "find": "nothing"},
    {"id": "cut", "find": "cut"},
    {"id": "odd", "find": "say I do not know"},
]


@pytest.fixture(autouse=True)
def fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "load_facts", lambda _: (FACTS, Counter()))
    monkeypatch.setattr(session, "start_executor", lambda *_: SerialExecutor(FakeModel))


def run(
    output: Path, videos: list[Any], queries: list[dict[str, Any]] = QUERIES, **more: Any
) -> BatchSummary:
    job = {
        "videos": videos,
        "queries": queries,
        "output": str(output),
        "sampling": {"fps": 1},
        **more,
    }
    return session.run_job(read_job(job, where="t"), Console(quiet=True))


def table(output: Path, name: str) -> list[dict[str, Any]]:
    return read_frame(open_output(str(output)), name).to_dicts()


def statuses(output: Path) -> dict[tuple[str, str], str]:
    rows = table(output, "requests")
    found = {(Path(row["video_uri"]).name, row["query_id"]): row["status"] for row in rows}
    assert len(found) == len(rows)
    return found


def bad_files(folder: Path) -> list[str]:
    (folder / "empty.mp4").touch()
    shutil.copy(HERE / "not_a_video.mp4", folder / "text.mp4")
    return [str(folder / name) for name in ("missing.mp4", "empty.mp4", "text.mp4")]


def test_every_request_has_its_row_whatever_happens(tmp_path: Path) -> None:
    out = tmp_path / "out"
    good = str(HERE / "modern.mp4")
    run(out, [*bad_files(tmp_path), good, {"uri": str(HERE / "twice.webm"), "clip": [900, 950]}])
    found = statuses(out)
    assert len(found) == 5 * 4
    assert {s for (video, _), s in found.items() if video in ("missing.mp4", "empty.mp4")} == {
        "input_failed"
    }
    assert [found["modern.mp4", q["id"]] for q in QUERIES] == [
        "found",
        "no_event",
        "truncated",
        "parse_failed",
    ]
    reasons = {row["reason"] for row in table(out, "requests")}
    assert {"missing_file", "empty_file", "not_video", "clip_outside", ""} <= reasons
    assert len(table(out, "videos")) == 1


def break_middle(source: Path, target: Path) -> None:
    """A file whose index is whole and whose pictures are zeros after the first tenth."""
    data = bytearray(source.read_bytes())
    low, high = len(data) // 10, data.rfind(b"moov") - 8
    assert high > low
    data[low:high] = bytes(high - low)
    target.write_bytes(data)


def test_a_damaged_middle_is_a_decode_failure(tmp_path: Path) -> None:
    out, video = tmp_path / "out", tmp_path / "broken.mp4"
    break_middle(HERE / "variable_rate.mp4", video)
    run(out, [{"uri": str(video), "clip": [30, 50]}], QUERIES[:2])
    assert {row["status"] for row in table(out, "requests")} == {"decode_failed"}
    assert {row["reason"] for row in table(out, "requests")} == {"decode_failed"}
    assert "cannot be decoded from 30.0 s on" in table(out, "requests")[0]["message"]


def test_a_damaged_tail_of_a_chunk_is_counted(tmp_path: Path) -> None:
    out, video = tmp_path / "out", tmp_path / "broken.mp4"
    break_middle(HERE / "variable_rate.mp4", video)
    run(out, [str(video)], QUERIES[:1])
    (row,) = table(out, "videos")
    assert row["sampled_frames"] / 2 < row["num_corrupt"] < row["sampled_frames"]


def test_three_readers_see_the_same_rows(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, [str(HERE / "modern.mp4"), str(HERE / "twice.webm")])
    for name in ("events", "requests", "videos"):
        ours = read_frame(open_output(str(out)), name)
        pattern = str(out / name / "*.parquet")
        arrow = ds.dataset(str(out / name), format="parquet").to_table().num_rows
        polars = pl.read_parquet(pattern)
        duck = duckdb.sql(f"select count(*) from read_parquet('{pattern}')").fetchall()[0][0]
        assert ours.height == arrow == polars.height == duck > 0
    sql = f"select video_uri, start_s, end_s from read_parquet('{out}/events/*.parquet') order by 1"
    rows = read_frame(open_output(str(out)), "events").sort("video_uri")
    assert duckdb.sql(sql).fetchall() == rows.select("video_uri", "start_s", "end_s").rows()


def test_the_same_command_again_does_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(out, [str(HERE / "modern.mp4")])
    before = sorted(path.name for path in out.rglob("*.parquet"))
    again = run(out, [str(HERE / "modern.mp4")])
    assert (first.num_kept, again.num_kept) == (0, 1)
    assert again.statuses == {}
    assert sorted(path.name for path in out.rglob("*.parquet")) == before


def test_a_file_that_appears_later_is_done_then(tmp_path: Path) -> None:
    out, late = tmp_path / "out", tmp_path / "late.mp4"
    run(out, [str(late)])
    assert set(statuses(out).values()) == {"input_failed"}
    shutil.copy(HERE / "modern.mp4", late)
    run(out, [str(late)])
    assert statuses(out)["late.mp4", "found"] == "found"
    assert len(table(out, "requests")) == 4


def test_changed_bytes_and_settings_replace_their_rows(tmp_path: Path) -> None:
    out, video = tmp_path / "out", tmp_path / "v.mp4"
    shutil.copy(HERE / "modern.mp4", video)
    run(out, [str(video)])
    first = {row["unit_key"] for row in table(out, "requests")}
    shutil.copy(HERE / "variable_rate.mp4", video)
    run(out, [str(video)])
    second = {row["unit_key"] for row in table(out, "requests")}
    run(out, [str(video)], sampling={"fps": 0.5})
    third = {row["unit_key"] for row in table(out, "requests")}
    assert len({*first, *second, *third}) == 3
    assert len(table(out, "requests")) == 4


def test_an_added_question_is_the_only_one_that_is_asked(tmp_path: Path) -> None:
    out, videos = tmp_path / "out", [str(HERE / "modern.mp4")]
    run(out, videos, QUERIES[:2])
    before = {row["query_id"]: row for row in table(out, "requests")}
    summary = run(out, videos, QUERIES[:3])
    assert sum(summary.statuses.values()) == 1
    after = {row["query_id"]: row for row in table(out, "requests")}
    assert set(after) == {"found", "none", "cut"}
    assert {name: after[name] for name in before} == before
    assert len(table(out, "videos")) == 1
    assert run(out, videos, QUERIES[1:2]).num_kept == 1
    assert len(table(out, "requests")) == 3


def test_a_changed_question_leaves_its_neighbours(tmp_path: Path) -> None:
    out, videos = tmp_path / "out", [str(HERE / "modern.mp4")]
    run(out, videos, QUERIES[:2])
    changed = [QUERIES[0], {"id": "none", "find": FOUND.replace("9.0", "20.0")}]
    assert sum(run(out, videos, changed).statuses.values()) == 1
    assert statuses(out) == {("modern.mp4", "found"): "found", ("modern.mp4", "none"): "found"}


def test_an_added_question_gives_the_rows_of_a_job_that_had_it_all_along(tmp_path: Path) -> None:
    videos = [str(HERE / "modern.mp4"), str(HERE / "twice.webm")]
    run(tmp_path / "a", videos, QUERIES[:1])
    run(tmp_path / "a", videos, QUERIES)
    run(tmp_path / "b", videos, QUERIES)
    digests = {rows_sha256(open_output(str(tmp_path / name))) for name in "ab"}
    assert len(digests) == 1


def test_two_clips_of_one_video_stand_beside_each_other(tmp_path: Path) -> None:
    out, uri = tmp_path / "out", str(HERE / "twice.webm")
    run(out, [{"uri": uri, "clip": [0, 20]}, {"uri": uri, "clip": ["00:20", "00:40"]}], QUERIES[:1])
    spans = sorted((row["start_s"], row["end_s"]) for row in table(out, "videos"))
    assert spans == [(0.0, 20.0), (20.0, 40.0)]


def test_the_same_bytes_are_answered_once(tmp_path: Path) -> None:
    out, twin = tmp_path / "out", tmp_path / "twin.mp4"
    shutil.copy(HERE / "modern.mp4", twin)
    run(out, [str(HERE / "modern.mp4"), str(twin)], QUERIES[:1])
    assert len(table(out, "requests")) == 1


def test_a_crash_in_the_model_is_a_row_without_its_text(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, [str(HERE / "modern.mp4")], [{"id": "bad", "find": "crash"}])
    (row,) = table(out, "requests")
    assert (row["status"], row["reason"]) == ("model_failed", "model_failed")
    assert "0x" not in row["message"]


def test_a_plan_too_large_for_the_context_is_refused_with_its_row(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(
        out,
        [str(HERE / "several_events.mp4")],
        QUERIES[1:2],
        sampling={"fps": 2, "video_tokens": "8k"},
    )
    (row,) = table(out, "requests")
    assert row["status"] == "refused"
    assert "model.context" in row["message"]


def test_nothing_starts_when_the_context_cannot_hold_the_question(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot hold the longest question"):
        run(tmp_path / "out", [str(HERE / "modern.mp4")], model={"context": 64})
    assert not (tmp_path / "out").exists()


def test_a_pattern_without_a_match_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file matches"):
        run(tmp_path / "out", [str(tmp_path / "*.mp4")])
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match="is a directory without videos"):
        run(tmp_path / "out", [str(tmp_path / "none")])
    with pytest.raises(ConfigError, match="is of no kind that is read"):
        run(tmp_path / "out", ["rtsp://example.org/a.mp4"])


def test_what_made_the_rows_is_written_down(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, [str(HERE / "modern.mp4")])
    text = (out / "job.json").read_text()
    for word in ("model_digest", "library_versions", "commit", "is_dirty", '"fps": 1.0'):
        assert word in text
