"""Rows written and read back; what no entry names is not there."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commit_log import LAST, CommitLog
from pipeline.entries import Answer, Entry, Part, entry_bytes, read_entry
from pipeline.parquet import RowContext, event_id, result_tables
from pipeline.settle import Fresh, settle
from pipeline.store import FolderStore
from schemas.errors import ConfigError, InvariantError
from schemas.events import TABLES, Event, RequestRow, RequestStatus, VideoResult

EVENT = Event("q", "a cat", (("kind", "cat"),), 1000, 4000, Fraction(1, 1000), 0.5, 0.9, (1000,))
ENTRY = "_log/000001.json"


def fresh_of(
    place: str,
    key: str = "k" * 64,
    queries: tuple[str, ...] = ("q",),
    since: int = 0,
    *,
    final: bool = True,
) -> Fresh:
    """What a run found: one event for each question."""
    events = tuple(replace(EVENT, query_id=query) for query in queries)
    rows = tuple(RequestRow(query, RequestStatus.FOUND, 1, 0, "{}", "", "", 9) for query in queries)
    prompts = tuple((query, "p" * 64) for query in queries)
    result = VideoResult("f" * 64, place, None, rows, events, prompts)
    keys = {query: f"{key}/{query}" for query in queries}
    answers = tuple(Answer(query, keys[query], "found", "", final) for query in queries)
    tables = result_tables(result, RowContext("job", key, "m", "d", keys))
    return Fresh(place, key, answers, tables, since)


def files(log: CommitLog, table: str = "events") -> list[str]:
    return [file.path for file in log.store.files(table)]


@pytest.fixture
def log(tmp_path: Path) -> CommitLog:
    made = CommitLog(FolderStore(tmp_path / "out"))
    made.store.prepare()
    return made


def test_rows_come_back_as_they_went(log: CommitLog) -> None:
    settle(log, fresh_of("a.mp4"))
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


def test_an_entry_without_its_parts_is_refused(log: CommitLog) -> None:
    part = Part("events", "events/none.parquet", 1, "0" * 64)
    with pytest.raises(InvariantError, match="before it is written"):
        log.append(Entry(0, "a.mp4", "k" * 64, (), (part,)), 0)
    assert log.state().entries == ()


def test_an_added_question_comes_beside_the_old_answers(log: CommitLog) -> None:
    settle(log, fresh_of("a.mp4", queries=("q", "r")))
    before = {row["query_id"]: row for row in log.read("events").to_pylist()}
    old = files(log)
    settle(log, fresh_of("a.mp4", queries=("s",), since=1))
    after = {row["query_id"]: row for row in log.read("events").to_pylist()}
    assert set(after) == {"q", "r", "s"}
    assert {name: after[name] for name in before} == before
    assert len(files(log)) == 1
    assert files(log) != old


def test_a_question_asked_anew_replaces_its_own_rows_only(log: CommitLog) -> None:
    settle(log, fresh_of("a.mp4", queries=("q", "r")))
    settle(log, fresh_of("a.mp4", key="n" * 64, queries=("r",), since=1))
    rows = {row["query_id"]: row["unit_key"][0] for row in log.read("requests").to_pylist()}
    assert rows == {"q": "k", "r": "n"}
    assert [a.key[0] for a in log.state().live["a.mp4"].answers] == ["k", "n"]


def test_who_comes_second_drops_its_parts(log: CommitLog) -> None:
    other = CommitLog(log.store)
    first = settle(log, fresh_of("a.mp4"))
    assert settle(other, fresh_of("a.mp4")) is None
    assert other.state().entries == (first,)
    assert len(files(log)) == 1


def test_who_comes_second_with_more_adds_what_is_missing(log: CommitLog) -> None:
    settle(log, fresh_of("a.mp4", queries=("q",)))
    settle(CommitLog(log.store), fresh_of("a.mp4", queries=("q", "r")))
    assert [a.query_id for a in log.state().live["a.mp4"].answers] == ["q", "r"]
    assert log.read("events").num_rows == 2


def test_a_better_answer_is_not_dropped_for_a_failed_one(log: CommitLog) -> None:
    settle(log, fresh_of("a.mp4", final=False))
    assert settle(CommitLog(log.store), fresh_of("a.mp4")) is not None
    assert settle(CommitLog(log.store), fresh_of("a.mp4", final=False)) is None
    assert log.state().live["a.mp4"].answers[0].final


def test_doing_it_again_on_purpose_replaces_it(log: CommitLog) -> None:
    settle(log, fresh_of("a.mp4"))
    assert settle(log, fresh_of("a.mp4", since=1)) is not None
    assert log.read("events").num_rows == 1


def test_who_begins_writes_down_what_a_killed_writer_committed(log: CommitLog) -> None:
    settle(log, fresh_of("a"))
    before = log.store.get(LAST)
    settle(log, fresh_of("b"))
    log.store.put(LAST, before)  # As where the second's writer died behind its commit.
    CommitLog(log.store).begin()
    log.store.delete("_log/000002.json")
    assert CommitLog(log.store).state().lost == (2,)


def test_many_writers_get_one_number_each(log: CommitLog) -> None:
    def put(number: int) -> None:
        settle(CommitLog(log.store), fresh_of(f"{number % 6}.mp4", f"{number % 6}" * 64))

    threads = [threading.Thread(target=put, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = log.state().entries
    assert [entry.number for entry in entries] == list(range(1, 7))
    assert Counter(entry.place for entry in entries) == {f"{n}.mp4": 1 for n in range(6)}
    assert log.read("events").num_rows == 6
    assert len(files(log)) == 6
    assert not [file for file in log.store.files("_log") if file.is_draft]


def test_a_log_entry_names_rows_and_digest(log: CommitLog) -> None:
    entry = settle(log, fresh_of("a.mp4"))
    assert entry is not None
    data = json.loads(log.store.get(ENTRY))
    assert data["parts"][0]["sha256"] == entry.parts[0].sha256
    table = pq.read_table(pa.BufferReader(log.store.get(entry.parts[0].path)))
    assert table.num_rows == 1


def test_every_flipped_bit_of_an_entry_is_found(log: CommitLog) -> None:
    entry = settle(log, fresh_of("a.mp4"))
    data = log.store.get(ENTRY)
    assert read_entry(1, data) == entry
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << (place % 8)
        assert read_entry(1, bytes(flipped)) is None, place
        assert read_entry(1, data[:place]) is None
    assert read_entry(2, data) is None


def test_a_reader_names_an_entry_that_cannot_be_read(log: CommitLog, tmp_path: Path) -> None:
    settle(log, fresh_of("a.mp4"))
    path = tmp_path / "out" / ENTRY
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ConfigError, match=r"000001\.json of .* is damaged or missing"):
        CommitLog(log.store).read("events")


@pytest.mark.parametrize("harm", ["flip", "cut", "delete"])
def test_a_reader_names_a_part_that_cannot_be_read(log: CommitLog, harm: str) -> None:
    settle(log, fresh_of("a.mp4"))
    (path,) = files(log)
    data = log.store.get(path)
    if harm == "delete":
        log.store.delete(path)
    else:
        log.store.put(path, data[:-9] if harm == "cut" else data[:40] + b"!" + data[41:])
    with pytest.raises(ConfigError, match=r"events/.*run the job's own command again"):
        log.read("events")


def test_a_reader_sees_a_replaced_part_where_it_is_now(log: CommitLog) -> None:
    settle(log, fresh_of("a.mp4"))
    reader = CommitLog(log.store)
    stale = reader.state()
    settle(log, fresh_of("a.mp4", key="n" * 64, since=1))
    assert not log.store.has(stale.entries[0].parts[0].path)
    assert reader.read("events")["unit_key"].to_pylist() == ["n" * 64]


def test_a_file_is_whole_or_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path)
    store.put("x/a.json", b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(ConfigError, match=r"cannot be written \(disk full\); make room there"):
        store.put("x/a.json", b"new and longer")
    assert store.get("x/a.json") == b"old"
    assert [f.name for f in store.files("x") if not f.is_draft] == ["a.json"]


def test_an_output_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        FolderStore(tmp_path / "file" / "out").prepare()


def test_entries_are_bytes_that_come_back() -> None:
    entry = Entry(
        7, "ä.mp4#t=1,2", "k", (Answer("q", "k/q", "found", "", True),), (), 1.5, 9, "2026"
    )
    assert read_entry(7, entry_bytes(entry)) == entry


def test_ids_come_from_the_answers_key() -> None:
    assert event_id("k", EVENT, Counter()) == event_id("k", EVENT, Counter())
    seen: Counter[str] = Counter()
    assert len({event_id(k, EVENT, seen) for k in "ab" for _ in (0, 1)}) == 4


def test_ids_do_not_depend_on_the_questions_beside() -> None:
    alone = fresh_of("a.mp4", queries=("r",)).tables["events"]["event_id"].to_pylist()
    among = fresh_of("a.mp4", queries=("q", "r")).tables["events"]["event_id"].to_pylist()
    assert among[1:] == alone
