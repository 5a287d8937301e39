"""What is asked again and what is not; damage found and mended; races and kills."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from obstore.store import MemoryStore

from jobs import clients, session
from jobs.show import open_output, read_frame
from jobs.status import read_status
from pipeline.audit import audit, collect, rows_sha256
from pipeline.commit_log import CommitLog
from pipeline.entries import entry_path
from pipeline.object_store import ObjectStore
from pipeline.store import FolderStore, Stored
from schemas.errors import ConfigError
from schemas.events import TABLES
from tests.jobs.fake_jobs import (
    VIDEOS,
    answers,
    commits,
    digest,
    find,
    job_facts,
    make_job,
    run,
    sample,
    try_all,
)

STEPS = (
    "file_drafted",
    "parts_written",
    "entry_drafted",
    "entry_linked",
    "draft_removed",
    "replaced_dropped",
)


def test_the_same_bytes_under_another_path_are_not_redone(tmp_path: Path) -> None:
    out, old, new = tmp_path / "out", tmp_path / "old.mp4", tmp_path / "new.mp4"
    shutil.copy(sample("modern.mp4"), old)
    run(make_job(out, [str(old)], [find("q")]))
    old.rename(new)
    assert run(make_job(out, [str(new)], [find("q")])).num_kept == 1
    assert len(commits(out)) == 1


def test_rows_move_with_their_bytes_when_the_old_path_gets_others(tmp_path: Path) -> None:
    out, a, b = tmp_path / "out", tmp_path / "a.mp4", tmp_path / "b.mp4"
    shutil.copy(sample("modern.mp4"), a)
    run(make_job(out, [str(a)], [find("q")]))
    a.rename(b)
    shutil.copy(sample("twice.webm"), a)
    summary = run(make_job(out, [str(a), str(b)], [find("q")]))
    assert (summary.num_kept, sum(summary.statuses.values())) == (1, 1)
    assert answers(out) == {("a.mp4", "q"), ("b.mp4", "q")}
    videos = read_frame(open_output(str(out)), "videos").select("video_uri", "codec").rows()
    assert {Path(uri).name: codec for uri, codec in videos}["b.mp4"] in ("av1", "libdav1d")
    assert run(make_job(out, [str(a), str(b)], [find("q")])).num_kept == 2


@pytest.mark.parametrize("places", ["ba", "cab", "aac"])
def test_rows_follow_files_that_change_places(tmp_path: Path, places: str) -> None:
    """The n-th letter names the path whose bytes the n-th path gets."""
    out, sources = tmp_path / "out", [sample(name) for name in VIDEOS[: len(places)]]
    paths = [tmp_path / f"{letter}.mp4" for letter in "abc"[: len(places)]]
    for source, path in zip(sources, paths, strict=True):
        shutil.copy(source, path)
    job = make_job(out, [str(path) for path in paths], [find("q")])
    run(job)
    before = {Path(row["video_uri"]).stem: row["video_id"] for row in _requests(out)}
    for letter, path in zip(places, paths, strict=True):
        shutil.copy(sources["abc".index(letter)], path)
    summary = run(job)
    assert (summary.num_kept, sum(summary.statuses.values())) == (len(places), 0)
    after = {Path(row["video_uri"]).stem: row["video_id"] for row in _requests(out)}
    assert after == {path.stem: before[letter] for path, letter in zip(paths, places, strict=True)}


def _requests(out: Path) -> list[dict[str, Any]]:
    return open_output(str(out)).read("requests").to_pylist()


def test_one_changed_video_is_the_only_one_redone(tmp_path: Path) -> None:
    out, own = tmp_path / "out", tmp_path / "own.mp4"
    shutil.copy(sample("modern.mp4"), own)
    videos = [str(own), sample("twice.webm")]
    run(make_job(out, videos, [find("q")]))
    shutil.copy(sample("turned.mov"), own)
    assert run(make_job(out, videos, [find("q")])).num_kept == 1
    assert answers(out) == {("own.mp4", "q"), ("twice.webm", "q")}


def test_settings_of_one_video_touch_that_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(make_job(out, [sample("modern.mp4"), sample("twice.webm")], [find("q")]))
    special = {
        "uri": sample("modern.mp4"),
        "sampling": {"fps": 0.5},
        "queries": ["q", find("own")],
    }
    summary = run(make_job(out, [special, sample("twice.webm")], [find("q")]))
    assert (summary.num_kept, sum(summary.statuses.values())) == (1, 2)
    assert answers(out) == {("modern.mp4", "q"), ("modern.mp4", "own"), ("twice.webm", "q")}
    videos = read_frame(open_output(str(out)), "videos").select("video_uri", "sampled_frames")
    frames = {Path(uri).name: count for uri, count in videos.rows()}
    assert frames["modern.mp4"] < frames["twice.webm"]


def test_one_video_twice_with_other_settings_is_refused(tmp_path: Path) -> None:
    twice = [sample("modern.mp4"), {"uri": sample("modern.mp4"), "sampling": {"fps": 0.5}}]
    with pytest.raises(ConfigError, match="is given twice with other questions or sampling"):
        run(make_job(tmp_path / "out", twice, [find("q")]))


def test_a_job_into_an_object_store_gives_the_same_rows(tmp_path: Path) -> None:
    videos, queries = [sample(name) for name in VIDEOS[:2]], [find("q"), find("r", 0, 5)]
    store = ObjectStore(MemoryStore(), "s3://bucket/out")
    with mock.patch.object(session, "open_store", return_value=store):
        run(make_job(tmp_path, videos, queries[:1]))
        run(make_job(tmp_path, videos, queries))
        assert run(make_job(tmp_path, videos, queries)).num_kept == 2
    run(make_job(tmp_path / "folder", videos, queries))
    assert rows_sha256(CommitLog(store)) == digest(tmp_path / "folder")
    assert audit(CommitLog(store)) == []
    assert read_status(CommitLog(store)).num_done == 2
    assert store.files(clients.FOLDER) == []
    logs = [json.loads(line) for file in store.files("_log/runs") for line in text(store, file)]
    assert [event["event"] for event in logs].count("unit_committed") == 4


def text(store: ObjectStore, file: Stored) -> list[str]:
    return store.get(file.path).decode().splitlines()


def finished(tmp_path: Path) -> tuple[Path, Any, str]:
    """A finished job of four videos and two questions, and the digest of its rows."""
    out = tmp_path / "out"
    job = make_job(out, [sample(name) for name in VIDEOS], [find("q"), find("r", 0, 5)])
    run(job)
    return out, job, digest(out)


def harms(out: Path) -> list[Path]:
    """Every file of an output that counts."""
    return sorted(p for name in ("_log", *TABLES) for p in (out / name).glob("*") if p.is_file())


HARMS = ("flip", "cut", "empty", "delete")


def test_every_harm_is_found_and_only_what_it_hits_is_redone(tmp_path: Path) -> None:
    out, job, whole = finished(tmp_path)
    chance = random.Random(7)
    found = tried = 0
    for path in harms(out):
        for harm in HARMS:
            before = path.read_bytes()
            hurt(path, harm, chance)
            log = CommitLog(FolderStore(out))
            hit = [finding for finding in audit(log) if finding.is_damage]
            assert [finding.path for finding in hit] == [str(path.relative_to(out))], harm
            found, tried = found + len(hit), tried + 1
            if path.name != "last":  # Readers do without it.
                with pytest.raises(ConfigError, match="run the job's own command again"):
                    read_all(log)
            path.write_bytes(before)
            assert audit(CommitLog(FolderStore(out))) == []
    assert found == tried >= 16 * 4
    for number in range(12):
        entry = chance.choice(list(CommitLog(FolderStore(out)).state().live.values()))
        paths = [entry_path(entry.number), *(part.path for part in entry.parts)]
        hurt(out / paths[number % len(paths)], chance.choice(HARMS), chance)
        assert run(job).num_kept == len(VIDEOS) - 1
        assert digest(out) == whole
        assert not [f for f in audit(CommitLog(FolderStore(out))) if f.is_damage]


def read_all(log: CommitLog) -> None:
    for table in TABLES:
        log.read(table)


def hurt(path: Path, harm: str, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if harm == "delete":
        path.unlink()
    elif harm == "flip":
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
    else:
        path.write_bytes(data[: 0 if harm == "empty" else chance.randrange(1, len(data))])


@pytest.mark.parametrize("kept", range(4))
def test_a_cut_log_is_found_and_mended(tmp_path: Path, kept: int) -> None:
    out, job, whole = finished(tmp_path)
    for number in range(kept + 1, 5):
        (out / "_log" / f"{number:06d}.json").unlink()
    hit = [finding for finding in audit(CommitLog(FolderStore(out))) if finding.is_damage]
    assert [finding.path for finding in hit] == [f"_log/{n:06d}.json" for n in range(kept + 1, 5)]
    assert run(job).num_kept == kept
    assert digest(out) == whole


def test_a_log_that_is_gone_is_found(tmp_path: Path) -> None:
    out, job, whole = finished(tmp_path)
    shutil.rmtree(out / "_log")
    assert [f.path for f in audit(CommitLog(FolderStore(out))) if f.is_damage] == ["_log/last"]
    assert run(job).num_kept == 0
    assert digest(out) == whole


def test_a_damaged_job_file_is_found(tmp_path: Path) -> None:
    out, job, _ = finished(tmp_path)
    text = (out / "job.json").read_text()
    (out / "job.json").write_text(text.replace('"max_frames": 2048', '"max_frames": 2049'))
    assert [f.kind for f in audit(CommitLog(FolderStore(out)))] == ["damaged_job"]
    run(job)
    assert audit(CommitLog(FolderStore(out))) == []


def test_rows_of_another_job_survive_damage_next_to_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(make_job(out, [sample("modern.mp4")], [find("q")]))
    run(make_job(out, [sample("twice.webm")], [find("q")]))
    log = CommitLog(FolderStore(out))
    part = log.state().live[sample("modern.mp4")].parts[0]
    log.store.delete(part.path)
    assert run(make_job(out, [sample("twice.webm")], [find("q")])).num_kept == 1
    (finding,) = audit(CommitLog(FolderStore(out)))
    assert (finding.kind, finding.place) == ("damaged_part", sample("modern.mp4"))


def test_leftovers_go_when_they_are_old_and_nothing_else(tmp_path: Path) -> None:
    out, _, whole = finished(tmp_path)
    for name in ("events/dead.parquet", "requests/.x.parquet.1.tmp", "_log/.000009.json.1.tmp"):
        (out / name).write_bytes(b"half")
    log = CommitLog(FolderStore(out))
    now = (out / "events/dead.parquet").stat().st_mtime + 100
    assert collect(log, 3600, now, dry_run=False) == []
    assert len(collect(log, 60, now, dry_run=True)) == 3
    assert {f.kind for f in audit(log)} == {"orphan"}
    assert len(collect(log, 60, now, dry_run=False)) == 3
    assert audit(log) == []
    assert digest(out) == whole


def test_nothing_is_collected_while_an_entry_is_lost(tmp_path: Path) -> None:
    out, _, _ = finished(tmp_path)
    (out / "_log" / "000002.json").unlink()
    with pytest.raises(ConfigError, match=r"000002\.json of .* is damaged or missing"):
        collect(CommitLog(FolderStore(out)), 0, 1e12, dry_run=False)


def test_a_client_killed_at_any_step_of_any_commit(tmp_path: Path) -> None:
    videos = [sample(name) for name in VIDEOS[:2]]
    before, after = [find("q")], [find("q", 0, 5), find("r")]
    run(make_job(tmp_path / "start", videos, before))
    run(make_job(tmp_path / "undisturbed", videos, after))
    whole = digest(tmp_path / "undisturbed")
    trials = []
    for step in STEPS:
        for nth in (1, 2):
            out = tmp_path / f"{step}-{nth}"
            shutil.copytree(tmp_path / "start", out)
            trials.append({"jobs": [job_facts(out, videos, after)], "step": step, "nth": nth})
    assert try_all(tmp_path, trials) == [9] * len(trials)
    for trial in trials:
        out = Path(trial["jobs"][0]["output"])
        assert not [f for f in audit(CommitLog(FolderStore(out))) if f.is_damage]
        run(make_job(out, videos, after))
        assert digest(out) == whole
        assert answers(out) == {(name, query) for name in VIDEOS[:2] for query in "qr"}
        # Two commits before the kill and two in all after it: no unit that was committed is redone.
        assert Counter(commits(out)) == dict.fromkeys(videos, 2)
        log = CommitLog(FolderStore(out))
        collect(log, 0, 1e12, dry_run=False)
        assert audit(log) == []


@pytest.mark.parametrize("num_races", [12, pytest.param(50, marks=pytest.mark.slow)])
def test_races_of_two_clients_end_with_one_commit_per_unit(tmp_path: Path, num_races: int) -> None:
    clips = [[0, 2], [2, 4]]
    videos = [{"uri": sample("turned.mov"), "clip": clip} for clip in clips]
    queries = [find("q", 0, 2), find("r", 2, 4)]
    run(make_job(tmp_path / "alone", videos, queries))
    places = sorted(commits(tmp_path / "alone"))
    trials = []
    for number in range(num_races):
        jobs = [job_facts(tmp_path / f"out-{number}", videos, queries)] * 2
        trials.append({"jobs": jobs, "folder": str(tmp_path / f"meet-{number}")})
    results = try_all(tmp_path, trials)
    lost = Counter[int]()
    for trial, kept in zip(trials, results, strict=True):
        out = Path(trial["jobs"][0]["output"])
        assert sorted(commits(out)) == places
        assert audit(CommitLog(FolderStore(out))) == []
        assert digest(out) == digest(tmp_path / "alone")
        assert sum(kept) == len(videos)
        lost.update(kept)
    # Both really raced: each video was computed twice, and one of the two dropped it.
    assert sum(count * num for count, num in lost.items()) == 2 * num_races


def test_two_clients_with_other_questions_keep_each_others_answers(tmp_path: Path) -> None:
    videos = [sample(name) for name in VIDEOS[:2]]
    trials = []
    for number in range(3):
        out = tmp_path / f"out-{number}"
        jobs = [job_facts(out, videos, [find(name)]) for name in "qr"]
        trials.append({"jobs": jobs, "folder": str(tmp_path / f"meet-{number}")})
    assert try_all(tmp_path, trials) == [[0, 0]] * 3
    for number in range(3):
        out = tmp_path / f"out-{number}"
        assert answers(out) == {(name, query) for name in VIDEOS[:2] for query in "qr"}
        assert audit(CommitLog(FolderStore(out))) == []
