"""A needle evaluation, end to end on the bundled checkpoint: real files, the production path, a
table that survives a kill."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from jobs.needle import evaluate
from jobs.needle.evaluate import Evaluation, run_needle
from jobs.needle.prepare import prepare
from jobs.needle.write import FILES, needle_rows, write_report
from jobs.outputs import open_store
from jobs.tools import make_model
from pipeline.audit import audit, rows_sha256
from pipeline.commit_log import CommitLog
from pipeline.entries import Entry
from pipeline.needle_pass import PassWork
from pipeline.run import chunk_work, decode_piece, run_video
from pipeline.stage import build, hide
from sample_media.generate import HERE
from schemas.errors import ConfigError, InputError
from schemas.media import FrameBatch, StreamIndex, VideoSource
from schemas.needle import read_needle
from schemas.plan import VideoPlan

TINY: dict[str, Any] = {
    "model": {"name": "nano"},
    "lengths": ["700", "60 frames"],
    "depths": 2,
    "fps": 4,
    "haystack": {"distractors": 1, "fps": 4, "width": 128, "height": 96},
    "cluster": {"executor": "serial"},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("haystacks")


def run(output: Path, cache: Path, **changes: Any) -> Evaluation:
    spec = read_needle({**TINY, "output": str(output), **changes}, where="test")
    return run_needle(spec, Console(quiet=True), cache)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Evaluation:
    return run(tmp_path_factory.mktemp("done") / "out", cache)


def test_every_question_has_a_row_with_its_truth(done: Evaluation) -> None:
    rows = needle_rows(done.log, [work.key for work in done.ready.works])
    asked = sum(len(work.asked) for work in done.ready.works)
    assert rows.height == asked
    assert not done.failures
    main = rows.filter(rows["control"] == "")
    assert main.height == 2 * 2 * 2
    assert set(main["length"]) == {"700", "60 frames"}
    assert (main["needle_frames"] >= 3).all()
    for row in main.iter_rows(named=True):
        assert row["truth_end_s"] - row["truth_start_s"] == pytest.approx(1.0)
        assert abs(row["placed_depth"] - row["depth"]) < 0.05
        assert row["total_tokens"] <= 1100
    assert (rows.filter(rows["control"] == "no_needle")["truth_start_s"].is_null()).all()


def test_the_same_command_again_reads_nothing(done: Evaluation, cache: Path) -> None:
    output = Path(str(done.log.store))
    before = rows_sha256(done.log)
    again = run(output, cache)
    assert (again.num_done, again.prefilled_tokens) == (0, 0)
    assert again.num_kept == len(done.ready.works)
    assert rows_sha256(again.log) == before
    assert not audit(again.log)


def frames_of(index: StreamIndex, plan: VideoPlan, first: int) -> Iterator[FrameBatch]:
    return map(decode_piece, chunk_work(index, plan, first))


def test_answers_are_those_of_the_production_path(done: Evaluation) -> None:
    """Each pass and length as a job of its own, on the same file, from its beginning."""
    ready = done.ready
    model = make_model(ready.spec.model, ready.facts.digest)
    rows = needle_rows(done.log, [work.key for work in ready.works])
    said = {(row["unit_key"], row["query_id"]): row["answer"] for row in rows.iter_rows(named=True)}
    compared = 0
    for work in ready.works[1:]:
        spliced = hide((work.haystack, work.spliced, work.insertions, work.form))
        for number in work.own.rungs:
            rung = ready.grid.rungs[number]
            queries = tuple(one.query for one in work.asked if one.rung == number)
            job = work.look.job(work.uri, rung, queries)
            source = VideoSource(work.uri, str(work.spliced), (rung.clip_s * 0, rung.clip_s))
            result = run_video(source, spliced.sha256, job, model, frames_of)
            for row in result.requests:
                assert said[work.key, row.query_id] == row.answer
                compared += 1
        work.spliced.unlink()
    assert compared == sum(len(work.asked) for work in ready.works[1:])


def test_no_needle_file_is_left_behind(done: Evaluation, cache: Path) -> None:
    assert {path.stem for path in cache.glob("*.mp4")} >= {done.ready.works[0].haystack.stem}
    assert not any(work.spliced.exists() for work in done.ready.works)


def test_the_report_is_written_beside_the_table(done: Evaluation) -> None:
    rows = needle_rows(done.log, [work.key for work in done.ready.works])
    paths = write_report(done, rows)
    assert [Path(path).name for path in paths] == list(FILES)
    assert all(Path(path).stat().st_size > 100 for path in paths)
    page = Path(paths[0]).read_text()
    assert done.ready.facts.digest[:12] in page
    assert "<script" not in page


def test_changed_settings_redo_what_they_touch(
    tmp_path: Path, done: Evaluation, cache: Path
) -> None:
    first = run(tmp_path / "out", cache, depths=[0.0])
    more = run(tmp_path / "out", cache, depths=[0.0, 1.0])
    assert first.num_done == 2
    # The needle at the beginning stays; the bare haystack is asked about more needles than before.
    assert (more.num_kept, more.num_done) == (1, len(more.ready.works) - 1)
    other = prepare(more.ready.spec.model_copy(update={"show_s": 2.0}), cache, Path.cwd())
    assert not {work.key for work in other.works} & {work.key for work in more.ready.works}


def test_needles_of_all_depths_in_one_haystack(tmp_path: Path, cache: Path) -> None:
    found = run(tmp_path / "out", cache, together=True, depths=3, controls=False, show_s=0.5)
    rows = needle_rows(found.log, [work.key for work in found.ready.works])
    assert [len(work.insertions) for work in found.ready.works] == [3, 3]
    assert set(rows["num_needles"]) == {3}
    assert rows.height == 2 * 3 * 2


def test_controls_beside_needles_take_no_pass_over_the_bare_haystack(tmp_path: Path) -> None:
    changes = {"together": True, "depths": 3, "show_s": 0.5}

    def passes(controls: object) -> list[PassWork]:
        spec = read_needle({**TINY, **changes, "controls": controls}, where="test")
        return list(prepare(spec, tmp_path, tmp_path).works)

    with_bare, beside = passes(True), passes("beside")
    assert [len(work.insertions) for work in with_bare] == [0, 3, 3]
    assert [len(work.insertions) for work in beside] == [3, 3]
    asked = {one.control for work in beside for one in work.asked}
    assert asked == {"", "other_needle", "scrambled"}


KILLED = """
import sys
from pathlib import Path
from jobs import cli
sys.argv = ["longtake", "needle", *sys.argv[1:]]
cli.main()
"""


def start(config: Path, cache: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(config), "--cache", str(cache)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_killed_behind_its_first_commit_the_same_command_finishes(
    tmp_path: Path, done: Evaluation, cache: Path
) -> None:
    output, config = tmp_path / "out", tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump({**TINY, "output": str(output)}))
    process = start(config, cache)
    deadline = time.monotonic() + 120
    while not list(output.glob("_log/0*.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    log = CommitLog(open_store(str(output)))
    kept = {entry.number: entry for entry in log.state().entries}
    assert 1 <= len(kept) < len(done.ready.works)
    finished = run(output, cache)
    assert finished.num_kept == len(kept)
    after = {entry.number: entry for entry in finished.log.state().entries}
    assert {number: after[number] for number in kept} == kept
    assert rows_sha256(finished.log) == rows_sha256(done.log)
    assert not [finding for finding in audit(finished.log) if finding.is_damage]


def entries_of(output: Path) -> dict[int, Entry]:
    if not (output / "_log").exists():
        return {}
    return {entry.number: entry for entry in CommitLog(open_store(str(output))).state().entries}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_again_and_again_at_random_moments(
    tmp_path: Path, done: Evaluation, seed: int
) -> None:
    """The haystack, too, is made while kills fall."""
    chance = random.Random(seed)
    output, config, cache = tmp_path / "out", tmp_path / "tiny.yaml", tmp_path / "cache"
    config.write_text(yaml.safe_dump({**TINY, "output": str(output)}))
    kept: dict[int, Entry] = {}
    kills = 0
    for _ in range(60):
        process = start(config, cache)
        try:
            # Later and later, so that it ends at some time.
            process.wait(timeout=chance.uniform(0.5, 5 + 0.5 * kills))
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        now = entries_of(output)
        assert {number: now[number] for number in kept} == kept
        kept = now
    assert process.returncode == 0
    assert kills
    finished = run(output, cache)
    assert finished.num_done == 0
    assert rows_sha256(finished.log) == rows_sha256(done.log)
    assert not [finding for finding in audit(finished.log) if finding.is_damage]


FOOTAGE = ["twice.webm", "turned.mov", "late_start.ts", "variable_rate.mp4"]


def test_ones_own_footage_of_any_kind_is_a_haystack(tmp_path: Path, cache: Path) -> None:
    videos = [str(HERE / name) for name in FOOTAGE]
    haystack = {**TINY["haystack"], "videos": videos}
    found = run(tmp_path / "out", cache, haystack=haystack, lengths=["300 frames"], depths=2)
    rows = needle_rows(found.log, [work.key for work in found.ready.works])
    assert not found.failures
    assert (rows.filter(rows["control"] == "")["needle_frames"] >= 3).all()
    made = found.ready.works[0].haystack.stat().st_mtime_ns
    again = run(tmp_path / "again", cache, haystack=haystack, lengths=["300 frames"], depths=3)
    if again.ready.works[0].haystack == found.ready.works[0].haystack:
        assert again.ready.works[0].haystack.stat().st_mtime_ns == made


def test_footage_that_is_too_short_is_refused_in_one_sentence(tmp_path: Path, cache: Path) -> None:
    haystack = {**TINY["haystack"], "videos": [str(HERE / "modern.mp4")]}
    with pytest.raises(InputError, match=r"haystack\.loop"):
        run(tmp_path / "out", cache, haystack=haystack, lengths=["2000 frames"])
    with pytest.raises(InputError, match="does not exist"):
        run(
            tmp_path / "out",
            cache,
            haystack={**TINY["haystack"], "videos": ["nothing_here.mp4"]},
        )


def test_a_haystack_is_encoded_once(done: Evaluation, cache: Path) -> None:
    (recipe,) = done.ready.recipes
    path = recipe.path(cache)
    made = path.stat().st_mtime_ns
    assert build((recipe, cache)) == path
    assert path.stat().st_mtime_ns == made
    assert replace(recipe, num_frames=recipe.num_frames + 1).path(cache) != path


def test_a_length_beyond_the_context_is_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"context holds .* lower it, or set model\.context"):
        run(tmp_path / "out", cache, lengths=["90000 minutes"])


def test_what_another_client_committed_meanwhile_is_not_committed_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both chose all passes before either had read one."""
    both = {"lengths": ["700"], "depths": [0.5]}
    first = run(tmp_path / "out", cache, **both)
    entries = first.log.state().entries
    monkeypatch.setattr(evaluate, "_pending", lambda ready, _log: list(ready.works))
    monkeypatch.setattr(evaluate, "_last", lambda _log: 0)
    run(tmp_path / "out", cache, **both)
    assert CommitLog(first.log.store).state().entries == entries
