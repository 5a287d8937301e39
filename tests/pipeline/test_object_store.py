"""The same promises in an object store as in a folder: one suite for both."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import MemoryStore

from pipeline.audit import audit, collect, rows_sha256
from pipeline.commit_log import CommitLog
from pipeline.object_store import ObjectStore, open_url
from pipeline.settle import settle
from pipeline.store import FolderStore, Store
from schemas.errors import ConfigError
from tests.pipeline.test_commit_log import fresh_of


@pytest.fixture(params=["folder", "objects"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "folder":
        yield FolderStore(tmp_path / "out")
    else:
        yield ObjectStore(MemoryStore(), "s3://bucket/out")


def test_files_are_put_listed_and_deleted(store: Store) -> None:
    store.prepare()
    assert store.files("a") == []
    assert not store.has("a/1")
    store.put("a/2", b"two")
    store.put("a/1", b"one")
    store.put("a/deep/3", b"three")
    store.put("a/1", b"one more")
    assert [(file.path, file.size) for file in store.files("a")] == [("a/1", 8), ("a/2", 3)]
    assert store.get("a/1") == b"one more"
    store.delete("a/1")
    store.delete("a/1")
    assert not store.has("a/1")
    with pytest.raises(FileNotFoundError):
        store.get("a/1")


def test_one_of_many_writers_wins(store: Store) -> None:
    store.prepare()
    wins: list[int] = []

    def write(number: int) -> None:
        if store.put_new("a/1", str(number).encode()):
            wins.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [store.get("a/1")] == [str(number).encode() for number in wins]


def test_commits_damage_and_leftovers(store: Store) -> None:
    log = CommitLog(store)
    log.begin()
    settle(log, fresh_of("a.mp4"))
    settle(log, fresh_of("b.mp4", key="b" * 64))
    assert settle(CommitLog(store), fresh_of("a.mp4")) is None
    settle(CommitLog(store), fresh_of("a.mp4", queries=("r",), since=2))
    assert audit(CommitLog(store)) == []
    assert log.read("events").num_rows == 3
    whole = rows_sha256(log)
    store.put("events/dead.parquet", b"half")
    (dead,) = collect(log, 0, 1e12, dry_run=False)
    assert dead.path == "events/dead.parquet"
    assert rows_sha256(log) == whole
    store.delete("_log/000002.json")
    (finding,) = [f for f in audit(CommitLog(store)) if f.is_damage]
    assert finding.path == "_log/000002.json"


def test_two_writers_of_an_object_store_end_with_one_commit_each() -> None:
    store = ObjectStore(MemoryStore(), "s3://bucket/out")

    def work() -> None:
        log = CommitLog(store)
        log.begin()
        for number in range(20):
            settle(log, fresh_of(f"{number}.mp4", key=f"{number:02d}" * 32))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = CommitLog(store).state().entries
    assert sorted(entry.place for entry in entries) == sorted(f"{n}.mp4" for n in range(20))
    assert audit(CommitLog(store)) == []


def test_a_put_whose_reply_was_lost_is_still_ours() -> None:
    memory = MemoryStore()
    store = ObjectStore(memory, "s3://bucket/out")
    obstore.put(memory, "_log/000001.json", b"mine")
    assert store.put_new("_log/000001.json", b"mine")
    assert not store.put_new("_log/000001.json", b"other")


def test_what_cannot_be_opened_or_written_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_url("s4://bucket/out")
