"""Kill anything, run the same command again, get the same rows.

Each trial plays the same job over an output that holds older rows, kills one thing, and runs the
command until it ends well. Rows that are lost, doubled or unreadable, and finished work that is
done again, fail it. Twenty trials belong to the gate; the rest to `make test-slow`.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash.client import STEPS
from tests.crash.stage import NUM_VIDEOS, NUM_WORKERS, Play, Stage, digest, fresh_copy, until

MOMENTS = ("client", "scheduler", "worker", "nanny", "decoder")
"""What is killed at random moments; a client also at every step of a commit."""
KILLS = (*MOMENTS, *STEPS)
IN_FLIGHT = 2 * NUM_WORKERS
"""Units that may be under way: one on each worker, and one of each that waits for its commit."""


@dataclass(frozen=True)
class Scene:
    """What every trial starts from and must end at."""

    stage: Stage
    older: Path
    digest: str
    job_id: str
    start_s: float
    """How long an undisturbed client takes until it reads, and from there to its end."""
    work_s: float


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("crash")
    stage = Stage(folder)
    try:
        older = Play(stage, folder / "older", fps=1.0)
        assert older.finish(older.start()) == 0, older.said()
        whole = Play(stage, folder / "whole")
        fresh_copy(older.folder, whole.folder)
        started = time.monotonic()
        client = whole.start()
        until(whole.is_reading)
        reading = time.monotonic()
        assert whole.finish(client) == 0, whole.said()
        rows = whole.rows()
        assert {name: len(found) for name, found in rows.items()} == {
            "events": NUM_VIDEOS,
            "requests": 2 * NUM_VIDEOS,
            "videos": NUM_VIDEOS,
        }
        work_s = time.monotonic() - reading
        job_id = rows["videos"][0]["job_id"]
        yield Scene(stage, older.folder, digest(rows), job_id, reading - started, work_s)
    finally:
        stage.close()


def kill(play: Play, scene: Scene, what: str, rng: random.Random) -> subprocess.Popen[bytes]:
    """Start the client and kill one thing; the client, dead or alive."""
    if what in STEPS:
        client = play.start(what, rng.randint(1, NUM_VIDEOS))
        client.wait(timeout=120)
        return client
    client = play.start()
    if what == "client":
        time.sleep(rng.uniform(0, scene.start_s + scene.work_s))
        client.kill()
        client.wait()
        return client
    until(lambda: play.is_reading() or client.poll() is not None)
    time.sleep(rng.uniform(0, scene.work_s))
    getattr(scene.stage, f"kill_{what}")(rng)
    return client


def play_once(folder: Path, scene: Scene, what: str, seed: int) -> None:
    rng = random.Random(seed)
    play = Play(scene.stage, folder)
    fresh_copy(scene.older, folder)
    client = kill(play, scene, what, rng)
    is_dead = what in (*STEPS, "client")
    begun, committed = play.begun(), play.committed(scene.job_id) if is_dead else set()
    assert not is_dead or client.returncode in (-9, 0), play.said()
    code = client.returncode if is_dead else play.finish(client)
    for _ in range(3):
        if code == 0:
            break
        code = play.finish(play.start())
    assert code == 0, play.said()
    check_work(play, begun, committed)
    check_rows(play, scene)


def check_work(play: Play, begun: Counter[str], committed: set[str]) -> None:
    again = play.begun()
    assert set(again) == {str(int(16384 * (7 + n / 2))) for n in range(NUM_VIDEOS)}
    assert {unit: again[unit] for unit in committed} == {unit: begun[unit] for unit in committed}
    assert again.total() - NUM_VIDEOS <= IN_FLIGHT


def check_rows(play: Play, scene: Scene) -> None:
    rows = play.rows()
    asked = [(row["video_uri"], row["query_id"]) for row in rows["requests"]]
    assert len(asked) == len(set(asked)) == 2 * NUM_VIDEOS
    assert {row["job_id"] for found in rows.values() for row in found} == {scene.job_id}
    assert digest(rows) == scene.digest


@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("what", KILLS)
def test_the_same_rows_whatever_dies(tmp_path: Path, scene: Scene, what: str, number: int) -> None:
    play_once(tmp_path, scene, what, number)


def test_the_job_goes_on_when_the_scheduler_dies_half_way(tmp_path: Path, scene: Scene) -> None:
    play = Play(scene.stage, tmp_path)
    client = play.start()
    # Early: on a busy machine the rest may be done before the kill is.
    until(lambda: len(play.committed(scene.job_id)) >= 1)
    scene.stage.kill_scheduler(random.Random())
    assert play.finish(client) == 0, play.said()
    assert "The scheduler is lost" in play.said()
    assert play.begun().total() - NUM_VIDEOS <= NUM_WORKERS
    check_rows(play, scene)


def test_a_scheduler_that_stays_away_ends_the_job_until_it_is_run_again(
    tmp_path: Path, scene: Scene
) -> None:
    play = Play(scene.stage, tmp_path, wait_s=3)
    client = play.start()
    until(lambda: play.committed_at_all())
    scene.stage.end_scheduler()
    assert play.finish(client) == 5, play.said()
    assert "no scheduler answers at" in play.said()
    assert "Traceback" not in play.said()
    kept = len(play.rows()["videos"])
    scene.stage.bring_back_scheduler()
    assert play.finish(play.start()) == 0, play.said()
    assert kept < NUM_VIDEOS == len(play.rows()["videos"])
    assert play.begun().total() <= NUM_VIDEOS + IN_FLIGHT


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2, 20))
@pytest.mark.parametrize("what", KILLS)
def test_the_same_rows_whatever_dies_many_times(
    tmp_path: Path, scene: Scene, what: str, number: int
) -> None:
    play_once(tmp_path, scene, what, number)
