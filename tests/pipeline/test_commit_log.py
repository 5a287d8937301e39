"""Exactly one commit per unit, whole or not at all."""

from __future__ import annotations

import json
import threading
from fractions import Fraction
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.commit_log import CommitLog, Entry
from pipeline.parquet import Part, RowContext, event_id, write_parts, write_whole
from schemas.errors import ConfigError, InvariantError
from schemas.events import TABLES, Event, RequestRow, RequestStatus, VideoResult

EVENT = Event(
    "q", "a cat", (("kind", "cat"),), 1000, 4000, Fraction(1, 1000), 2.0, 0.9, (1000, 2000)
)


def result_of(uri: str, events: tuple[Event, ...] = (EVENT,)) -> VideoResult:
    row = RequestRow("q", RequestStatus.FOUND, len(events), 0, "{}", "", "", 9)
    return VideoResult("f" * 64, uri, None, (row,), events, (("q", "p" * 64),))


def put(log: CommitLog, key: str, uri: str = "a.mp4", replaces: tuple[str, ...] = ()) -> Entry:
    parts = write_parts(log.folder, result_of(uri), RowContext("job", key, "m", "d"))
    entry = Entry(key, uri, ("q",), True, replaces, tuple(parts))
    log.commit(entry)
    return entry


@pytest.fixture
def log(tmp_path: Path) -> CommitLog:
    made = CommitLog(tmp_path / "out")
    made.open_for_writing()
    return made


def test_rows_come_back_as_they_went(log: CommitLog) -> None:
    put(log, "k1" * 32)
    events = log.read("events")
    assert events.schema.equals(TABLES["events"], check_metadata=True)
    (row,) = events.to_pylist()
    assert (row["start_s"], row["end_s"]) == (1.0, 4.0)
    assert (row["start_tc"], row["end_tc"]) == ("00:00:01.000", "00:00:04.000")
    assert row["attributes"] == [("kind", "cat")]
    assert row["kind"] == "cat"
    assert row["prompt_sha256"] == "p" * 64
    assert log.read("requests").num_rows == 1
    assert log.read("videos").num_rows == 0


def test_units_and_versions_are_in_the_metadata() -> None:
    schema = TABLES["events"]
    assert schema.metadata[b"longtake.schema_version"] == b"2"
    assert schema.field("start_s").metadata == {b"unit": b"s"}
    assert schema.field("start_pts").metadata == {b"unit": b"tick"}


def test_parts_without_an_entry_are_not_there(log: CommitLog) -> None:
    write_parts(log.folder, result_of("a.mp4"), RowContext("job", "k" * 64, "m", "d"))
    assert log.read("events").num_rows == 0
    assert log.live() == {}


def test_an_entry_without_its_parts_is_refused(log: CommitLog) -> None:
    part = Part("events", "events/none.parquet", 1, "0" * 64)
    with pytest.raises(InvariantError, match="before it is written"):
        log.commit(Entry("k" * 64, "a.mp4", ("q",), True, (), (part,)))
    assert log.entries() == []


def test_a_replaced_unit_counts_no_more_and_its_files_go(log: CommitLog) -> None:
    old = put(log, "k1" * 32)
    put(log, "k2" * 32, replaces=("k1" * 32,))
    assert list(log.live()) == ["k2" * 32]
    assert log.read("events").num_rows == 1
    log.drop_replaced()
    assert not (log.folder / old.parts[0].path).exists()
    assert log.read("events").num_rows == 1
    assert len(list((log.folder / "events").glob("*.parquet"))) == 1


def test_many_writers_get_one_number_each(log: CommitLog) -> None:
    other = CommitLog(log.folder)
    threads = [
        threading.Thread(target=put, args=(which, f"{n:02d}" * 32, f"{n}.mp4"))
        for n in range(12)
        for which in (log if n % 2 else other,)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = sorted(path.name for path in (log.folder / "_log").glob("*.json"))
    assert names == [f"{n:06d}.json" for n in range(1, 13)]
    assert len(log.live()) == 12
    assert log.read("events").num_rows == 12
    assert not list((log.folder / "_log").glob("*.tmp"))


def test_an_entry_that_cannot_be_read_is_named(log: CommitLog) -> None:
    put(log, "k" * 64)
    path = log.folder / "_log" / "000001.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(ConfigError, match=r"000001\.json cannot be read"):
        log.live()


def test_a_log_entry_names_rows_and_digest(log: CommitLog) -> None:
    entry = put(log, "k" * 64)
    data = json.loads((log.folder / "_log" / "000001.json").read_text())
    assert data["parts"][0]["sha256"] == entry.parts[0].sha256
    assert pq.read_metadata(log.folder / entry.parts[0].path).num_rows == 1


def test_a_file_is_whole_or_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x" / "a.json"
    write_whole(path, b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.glob("*.json")] == ["a.json"]


def test_an_output_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        CommitLog(tmp_path / "file" / "out").open_for_writing()


def test_ids_come_from_the_key() -> None:
    assert event_id("k", EVENT, 0) == event_id("k", EVENT, 0)
    assert len({event_id(k, EVENT, n) for k in "ab" for n in (0, 1)}) == 4
