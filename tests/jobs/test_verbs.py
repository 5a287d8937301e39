"""The verbs around an output, as a user calls them."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from jobs.show import open_output
from jobs.status import read_status
from pipeline.commit_log import CommitLog
from pipeline.store import FolderStore
from sample_media.generate import HERE
from tests.jobs.fake_jobs import answers, commits, find, sample
from tests.jobs.test_cli import fake_model, longtake, write_job

__all__ = ["fake_model", "longtake"]

pytestmark = pytest.mark.usefixtures("fake_model")


@pytest.fixture
def out(tmp_path: Path, longtake: Any) -> Path:
    """A finished job of two videos, one of them missing."""
    videos = [sample("modern.mp4"), str(tmp_path / "late.mp4")]
    job = write_job(tmp_path, videos=videos, queries=[find("q"), find("r", 0, 5)])
    assert longtake("run", job).code == 3
    return tmp_path / "out"


def test_verify_says_whole_and_names_the_rows(out: Path, longtake: Any) -> None:
    said = longtake("verify", str(out))
    assert said.code == 0
    assert "whole: 2 log entries, rows: 2 events, 4 requests, 1 videos" in said.out
    facts = json.loads(longtake("verify", str(out), "--json").out)
    assert facts["whole"]
    assert facts["rows"] == {"events": 2, "requests": 4, "videos": 1, "needles": 0}
    assert facts["rows_sha256"] in said.out


def test_verify_names_damage_and_what_to_run(out: Path, longtake: Any, tmp_path: Path) -> None:
    (path,) = (out / "events").glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    said = longtake("verify", str(out))
    assert said.code == 4
    assert f"part events/{path.name} has other bytes than were written" in said.out
    assert f"longtake retry {out} --missing" in said.err
    facts = json.loads(longtake("verify", str(out), "--json").out)
    assert [finding["kind"] for finding in facts["findings"]] == ["damaged_part"]
    assert longtake("events", str(out)).code == 4
    assert longtake("retry", str(out), "--missing").code == 3
    assert longtake("verify", str(out)).code == 0


def test_gc_keeps_what_is_young(out: Path, longtake: Any) -> None:
    (out / "events" / "dead.parquet").write_bytes(b"half")
    assert "leftover events/dead.parquet" in longtake("verify", str(out)).out
    assert json.loads(longtake("gc", str(out), "--json").out)["files"] == []
    dry = longtake("gc", str(out), "--older-than", "0s", "--dry-run")
    assert (dry.out, "Would remove 1 files, 4 bytes." in dry.err) == ("events/dead.parquet\n", True)
    assert longtake("gc", str(out), "--older-than", "0s").code == 0
    assert not (out / "events" / "dead.parquet").exists()
    assert longtake("gc", str(out), "--older-than", "soon").code == 4


def test_status_counts_done_failed_and_pending(out: Path, longtake: Any) -> None:
    said = longtake("status", str(out))
    assert said.code == 0
    assert "videos    2: 1 done, 1 failed, 0 pending" in said.out
    assert "failed    2 missing_file" in said.out
    facts = json.loads(longtake("status", str(out), "--json").out)
    assert facts["requests"] == {"found": 2, "input_failed": 2}
    assert (facts["clients"], facts["eta_s"]) == ([], None)
    assert facts["rate"] > 0


def test_status_of_a_half_done_job_knows_what_is_left(out: Path, longtake: Any) -> None:
    job = json.loads((out / "job.json").read_text())
    (out / "_log" / "000002.json").unlink()
    (out / "_log" / "last").unlink()
    status = read_status(open_output(str(out)))
    assert (status.num_done + status.num_failed, status.num_pending) == (1, 1)
    started = datetime.fromisoformat(job["started_at"])
    seconds = {unit["uri"]: unit["seconds"] for unit in job["units"]}
    assert seconds[sample("modern.mp4")] > 20
    if status.num_failed:  # The video that was read is the one that is left.
        assert status.pending_s == seconds[sample("modern.mp4")]
    assert status.eta_s is None
    assert datetime.now(UTC) - started < timedelta(hours=1)


def test_status_and_retry_of_a_damaged_job_file(out: Path, longtake: Any) -> None:
    (out / "job.json").write_text("{}")
    for verb in ("status", "retry"):
        said = longtake(verb, str(out), *(["--failed"] if verb == "retry" else []))
        assert said.code == 4
        assert "job.json of" in said.err
        assert "run the job's own command again" in said.err


def test_retry_asks_what_failed_and_nothing_else(
    out: Path, longtake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(HERE / "turned.mov", tmp_path / "late.mp4")
    monkeypatch.chdir(tmp_path)
    before = len(commits(out))
    assert longtake("retry", str(out), "--failed", "--where", "reason=worker_died").code == 0
    assert len(commits(out)) == before
    said = longtake("retry", str(out), "--failed", "--where", "reason=missing_file", "--json")
    assert said.code == 0
    assert json.loads(said.out)["requests"] == {"found": 2}
    assert commits(out)[before:] == [str(tmp_path / "late.mp4")]
    assert answers(out) == {(v, q) for v in ("modern.mp4", "late.mp4") for q in "qr"}


def test_retry_by_question_asks_it_again(out: Path, longtake: Any) -> None:
    before = {row["query_id"]: row for row in rows(out) if row["status"] == "found"}
    said = longtake("retry", str(out), "--where", "query=r", "--where", "video=modern", "--json")
    assert json.loads(said.out)["requests"] == {"found": 1}
    after = {row["query_id"]: row for row in rows(out) if row["status"] == "found"}
    assert after["q"] == before["q"]
    assert after["r"]["created_at"] > before["r"]["created_at"]


def rows(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = CommitLog(FolderStore(out)).read("requests").to_pylist()
    return found


def test_retry_needs_to_know_what(out: Path, longtake: Any) -> None:
    assert longtake("retry", str(out)).code == 2
    assert longtake("retry", str(out), "--missing", "--failed").code == 2
    said = longtake("retry", str(out), "--failed", "--where", "reson=x")
    assert (said.code, "did you mean reason=…?" in said.err) == (4, True)


def test_cancel_where_nobody_works(out: Path, longtake: Any) -> None:
    assert "Nobody works on" in longtake("cancel", str(out)).err
    assert json.loads(longtake("cancel", str(out), "--json").out) == {"asked": []}


@pytest.mark.parametrize("verb", ["verify", "gc", "status", "cancel"])
def test_what_is_no_output_is_refused(verb: str, longtake: Any, tmp_path: Path) -> None:
    said = longtake(verb, str(tmp_path))
    assert (said.code, "is no output of Longtake" in said.err) == (4, True)


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        (("--max-hours", "0.001"), "are left to read and limits.max_hours is 0.001; raise it"),
        (("--max-tokens", "10"), "tokens are left to read and limits.max_tokens is 10; raise it"),
        (("--max-tokens", "some"), "'some' is not a number of tokens"),
        (("--max-hours", "-1"), "`max_hours`: Input should be greater than 0"),
    ],
)
def test_what_costs_too_much_does_not_start(
    longtake: Any, tmp_path: Path, limit: tuple[str, str], sentence: str
) -> None:
    said = longtake("run", write_job(tmp_path), *limit)
    assert said.code == 4
    assert sentence in said.err
    assert not (tmp_path / "out").exists()


def test_a_limit_counts_what_is_left(longtake: Any, tmp_path: Path) -> None:
    assert longtake("run", write_job(tmp_path), "--max-hours", "1", "--max-tokens", "1m").code == 0
    assert longtake("run", write_job(tmp_path), "--max-hours", "0.001").code == 0
    job = write_job(tmp_path, queries=[find("other")], limits={"max_tokens": "10"})
    assert longtake("run", job).code == 4
    assert longtake("run", job, "--max-tokens", "1m").code == 0


def test_a_run_leaves_a_log_of_what_happened(out: Path, longtake: Any, tmp_path: Path) -> None:
    events = [json.loads(line) for line in (out / "longtake.log").read_text().splitlines()]
    assert [event["event"] for event in events] == [
        "run_started",
        "unit_committed",
        "unit_committed",
        "run_ended",
    ]
    assert len({event["run"] for event in events}) == 1
    assert events[0]["pending"] == 2
    assert {event["entry"] for event in events[1:3]} == {1, 2}
    (failed,) = [event for event in events[1:3] if event["reasons"]]
    assert failed["reasons"] == ["missing_file"]
    assert datetime.fromisoformat(events[0]["at"]) <= datetime.now(UTC)
    longtake("retry", str(out), "--failed")
    assert len((out / "longtake.log").read_text().splitlines()) == 7


def test_a_run_leaves_its_counts_for_prometheus(out: Path) -> None:
    text = (out / "metrics.prom").read_text()
    samples = {
        (sample.name, *(v for k, v in sorted(sample.labels.items()) if k != "job")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["longtake_units_total", "done"] == 1
    assert samples["longtake_units_total", "failed"] == 1
    assert samples["longtake_answers_total", "missing_file", "input_failed"] == 2
    assert samples["longtake_events_total",] == 2
    assert samples["longtake_tokens_total",] > 100
    assert samples["longtake_frames_total",] > 10
    assert samples["longtake_pending_units",] == 0
