"""Leases: who works on an output, who waits for whom, and how a run is asked to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from jobs import clients, session
from jobs.clients import Client, ask_to_stop, running, sweep
from jobs.executor import SerialExecutor
from jobs.run_batch import commit_unit, run_units
from pipeline.audit import collect
from pipeline.commit_log import CommitLog
from pipeline.store import FolderStore
from tests.jobs.fake_jobs import answers, commits, fake_model, find, make_job, sample
from tests.jobs.fakes import FACTS, FakeModel

DEADLINE_S = 60


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def nothing() -> None:
    """Heeds no request."""


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "out")


def test_a_client_is_seen_while_it_lives(store: FolderStore) -> None:
    assert running(store) == []
    with Client(store, nothing) as client:
        client.hold(["u1", "u2"])
        (lease,) = running(store)
        assert (lease.pid, lease.units) == (os.getpid(), ("u1", "u2"))
        assert client.elders() == []
        with Client(store, nothing) as younger:
            assert [lease.name for lease in younger.elders()] == [client.lease.name]
            assert client.elders() == []
    assert running(store) == []
    assert store.files(clients.FOLDER) == []


def test_the_lease_of_a_killed_client_holds_nobody_up(store: FolderStore) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from jobs.clients import Client; from pipeline.store import FolderStore\n"
        "with Client(FolderStore(Path(sys.argv[1])), print): time.sleep(600)"
    )
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-c", code, str(store.folder)]
    with subprocess.Popen(command, cwd=root) as child:
        wait_for(lambda: running(store))
        child.kill()
        # Nobody has waited for it yet: it is a zombie, and dead all the same.
        wait_for(lambda: not running(store))
    assert store.files(clients.FOLDER) != []
    sweep(store)
    # A half-written file may be of a client that is just starting: `gc` takes it when it is old.
    assert [file for file in store.files(clients.FOLDER) if not file.is_draft] == []
    collect(CommitLog(store), 0, 1e12, dry_run=False)
    assert store.files(clients.FOLDER) == []


def test_a_client_elsewhere_lives_by_its_heartbeat(store: FolderStore) -> None:
    with Client(store, nothing) as client:
        client.lease = replace(client.lease, host="another", pid=1)
        client.hold(["u"])
        assert [lease.host for lease in running(store)] == ["another"]
        beat = store.folder / clients.FOLDER / f"{client.lease.name}.beat"
        old = time.time() - clients.DEAD_AFTER_S - 1
        os.utime(beat, (old, old))
        assert running(store) == []


def test_a_garbled_lease_is_nobody(store: FolderStore) -> None:
    store.put(f"{clients.FOLDER}/x.json", b"{")
    assert running(store) == []
    sweep(store)
    assert store.files(clients.FOLDER) == []


def test_who_is_asked_to_stop_hears_it_once(store: FolderStore) -> None:
    heard = threading.Event()
    with Client(store, heard.set) as client:
        assert [lease.name for lease in ask_to_stop(store)] == [client.lease.name]
        assert heard.wait(DEADLINE_S)
        wait_for(lambda: not store.has(f"{clients.FOLDER}/{client.lease.name}.cancel"))
    assert ask_to_stop(store) == []


def test_a_second_client_waits_for_what_the_first_has_in_flight(tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = make_job(out, [sample("modern.mp4"), sample("turned.mov")], [find("q")])
    with fake_model():
        ready = session.prepare(job)
        held, other = ready.units
        with Client(FolderStore(out), nothing) as elder:
            elder.hold([held.key])
            console = Console(record=True, width=300)
            summaries = []
            thread = threading.Thread(
                target=lambda: summaries.append(session.run_job(job, console)), daemon=True
            )
            thread.start()
            wait_for(lambda: "waiting for it" in console.export_text(clear=False))
            # What nobody holds was not waited for.
            assert commits(out) == [other.place]
            # The elder commits its unit; the one that waits finds it done.
            (done,) = run_units(job, [held], SerialExecutor(FakeModel), print)
            commit_unit(done, "elder", FACTS, CommitLog(FolderStore(out)), ready.since)
            elder.hold([])
            thread.join(DEADLINE_S)
    (summary,) = summaries
    assert summary.num_kept == 1
    assert commits(out) == [other.place, held.place]


def test_a_second_client_takes_over_from_one_that_is_gone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = make_job(out, [sample("modern.mp4")], [find("q")])
    with fake_model():
        (unit,) = session.prepare(job).units
        console = Console(record=True, width=300)
        with Client(FolderStore(out), nothing) as elder:
            elder.hold([unit.key])
            thread = threading.Thread(target=session.run_job, args=(job, console), daemon=True)
            thread.start()
            wait_for(lambda: "waiting for it" in console.export_text(clear=False))
        thread.join(DEADLINE_S)
    assert answers(out) == {("modern.mp4", "q")}


@pytest.mark.parametrize("how", ["cancel", pytest.param("interrupt", marks=pytest.mark.slow)])
def test_a_run_that_is_told_to_stop_ends_with_130_and_goes_on_later(
    tmp_path: Path, how: str
) -> None:
    root = Path(__file__).parent.parent.parent
    out, job = tmp_path / "out", tmp_path / "job.yaml"
    names = ("one_frame", "several_events", "modern", "turned", "variable_rate")
    endings = ("mp4", "mp4", "mp4", "mov", "mp4")
    videos = [sample(f"{name}.{ending}") for name, ending in zip(names, endings, strict=True)]
    queries = "[{id: q, find: a red circle}]"
    job.write_text(
        f"videos: {videos}\nqueries: {queries}\noutput: {out}\ncluster: {{executor: serial}}\n"
        "sampling: {fps: 4}\nmodel: {context: 16k, prefill_chunk: 256}\n"
    )
    command = [sys.executable, "-m", "jobs.cli", "run", str(job)]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) as child:
        wait_for(lambda: commits(out) if out.exists() else [])
        if how == "cancel":
            done = subprocess.run(
                [sys.executable, "-m", "jobs.cli", "cancel", str(out)],
                cwd=root,
                capture_output=True,
                text=True,
                check=True,
            )
            assert f"Asked process {child.pid} on" in done.stderr
        else:
            child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=DEADLINE_S)
    assert child.returncode == 130
    assert "Run the same command again to go on." in said
    # How many were done by then is a matter of the machine; work was left.
    kept = commits(out)
    assert kept == videos[: len(kept)]
    assert 1 <= len(kept) < len(videos)
    assert running(FolderStore(out)) == []
