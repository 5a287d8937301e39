"""A training that was stopped goes on as if it had not been."""

from __future__ import annotations

import signal
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.nano.progress import Loop, rate, saved_run
from recipes.nano.shape import PUBLISHED


class Walk:
    """A training that adds what it draws; it may interrupt itself behind a step."""

    def __init__(self, path: Path, steps: int = 12) -> None:
        self.at = torch.zeros(3)
        self.loop = Loop(path, steps, 5, self.state, self._load)

    def state(self) -> dict[str, dict[str, torch.Tensor]]:
        return {"own": {"at": self.at}, "optimizer": {"moment": self.at}}

    def _load(self, state: dict[str, dict[str, torch.Tensor]]) -> None:
        self.at = state["own"]["at"]

    def run(self, stop_behind: int = -1) -> None:
        def one(rng: np.random.Generator, step: int) -> dict[str, float]:
            self.at = self.at + torch.from_numpy(rng.normal(size=3)).float()
            if step == stop_behind:
                signal.raise_signal(signal.SIGINT)
            return {"loss": 1.0}

        before = signal.getsignal(signal.SIGINT)
        try:
            self.loop.resume()
            self.loop.run(one)
        finally:
            signal.signal(signal.SIGINT, before)


def test_a_stopped_run_ends_where_an_unstopped_one_does(tmp_path: Path) -> None:
    whole = Walk(tmp_path / "whole.pt")
    whole.run()
    stopped = Walk(tmp_path / "stopped.pt")
    with pytest.raises(SystemExit) as caught:
        stopped.run(stop_behind=4)
    assert caught.value.code == 130
    assert stopped.loop.step == 5
    taken_up = Walk(tmp_path / "stopped.pt")
    taken_up.run()
    assert torch.equal(taken_up.at, whole.at)
    assert not torch.equal(stopped.at, whole.at)


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    Walk(tmp_path / "walk.pt").run()
    again = Walk(tmp_path / "walk.pt")
    again.run(stop_behind=0)
    assert again.loop.step == 12


def test_a_run_begins_where_another_ended_or_with_what_is_published(tmp_path: Path) -> None:
    first = Walk(tmp_path / "first.pt")
    first.run()
    second = Walk(tmp_path / "second.pt")
    second.loop.resume("first.pt")
    assert torch.equal(second.at, first.at.bfloat16())
    assert second.loop.step == 0
    third = Walk(tmp_path / "third.pt")
    third.loop.resume(PUBLISHED, lambda: third._load({"own": {"at": torch.ones(3)}}))
    assert float(third.at.sum()) == 3


def test_what_is_handed_on_does_not_depend_on_whether_the_run_before_had_ended(
    tmp_path: Path,
) -> None:
    stopped = Walk(tmp_path / "first.pt")
    with pytest.raises(SystemExit):
        stopped.run(stop_behind=4)
    early = Walk(tmp_path / "early.pt")
    early.loop.resume("first.pt")
    assert torch.equal(early.at, stopped.at.bfloat16())
    assert saved_run(tmp_path / "first.pt")["state"].keys() == {"own", "optimizer"}
    Walk(tmp_path / "first.pt").run()
    assert saved_run(tmp_path / "first.pt")["state"].keys() == {"own"}


def test_stops_do_not_count_as_time_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = count(0, 60)  # A minute from look to look.
    monkeypatch.setattr("recipes.nano.progress.time.monotonic", lambda: next(now))
    with pytest.raises(SystemExit):
        Walk(tmp_path / "walk.pt").run(stop_behind=4)
    next(now), next(now)
    Walk(tmp_path / "walk.pt").run()
    assert "12 steps in 12 minutes" in capsys.readouterr().out


def test_the_rate_warms_up_stays_and_declines() -> None:
    rates = [rate(1.0, step, 1000, 0.5) for step in (0, 59, 400, 750, 999)]
    assert rates == pytest.approx([1 / 60, 1.0, 1.0, 0.5, 0.01], abs=1e-6)
