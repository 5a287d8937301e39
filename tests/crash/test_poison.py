"""Poison videos fail alone, each with its own reason; their neighbours do not notice."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import _poison
from jobs import run_batch, session, start
from jobs.show import open_output, read_frame
from schemas.job import read_job
from tests.counter import Counter
from tests.crash.stage import FOUND, draw_videos
from tests.jobs.fakes import FACTS, FakeModel

CLUSTER = {"decode_limit_s": 3, "decode_memory_mib": 256, "decode_workers": 1}


@pytest.fixture(autouse=True)
def quick_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "load_facts", lambda _: (FACTS, Counter()))
    monkeypatch.setattr(start, "model_maker", lambda *_: FakeModel)
    monkeypatch.setattr(run_batch, "answer_unit", _poison.answer_unit)


def test_only_the_poison_fails_each_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / _poison.TRIES).mkdir()
    films = [Path(path) for path in draw_videos(tmp_path)]
    for film, kind in zip(films, _poison.REASONS, strict=False):
        film.rename(tmp_path / f"{kind}_{film.name}")
    job = {
        "videos": [str(tmp_path)],
        "queries": [{"id": "q", "find": FOUND}],
        "cluster": CLUSTER,
        "output": str(tmp_path / "out"),
    }
    summary = session.run_job(read_job(job, where="t"), Console(quiet=True))
    rows = read_frame(open_output(job["output"]), "requests").to_dicts()
    said = {Path(row["video_uri"]).name.split("_")[0]: row for row in rows}
    assert {kind: said[kind]["reason"] for kind in _poison.REASONS} == _poison.REASONS
    assert {said[kind]["status"] for kind in _poison.REASONS} == {"decode_failed"}
    assert "takes more than 256 MiB to decode (tried 2 times)" in said["bomb"]["message"]
    assert "keeps its decoder busy for more than 3 s" in said["loop"]["message"]
    assert summary.statuses == {"decode_failed": 3, "found": 3}
    tries = [path.stat().st_size for path in (tmp_path / _poison.TRIES).iterdir()]
    assert tries == [2, 2, 2]
    # Quarantined: the same command leaves them alone.
    again = session.run_job(read_job(job, where="t"), Console(quiet=True))
    assert (again.num_kept, again.statuses) == (6, {})
