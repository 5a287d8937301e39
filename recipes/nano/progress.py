"""What both trainings share: steps that depend on their number alone, and states that survive
a stop.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipes.nano.shape import PUBLISHED

SAVE_EVERY_S = 60.0
SAY_EVERY = 50


def rate(peak: float, step: int, steps: int, decline: float) -> float:
    """Short warm-up, plateau, straight decline over the last share `decline` of the steps."""
    return peak * min(1.0, (step + 1) / 60) * min(1.0, max(0.01, (1 - step / steps) / decline))


def saved_run(path: Path) -> dict[str, Any]:
    """What `Loop` saved, wherever it was trained."""
    saved: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return saved


def handed_on(state: dict[str, Any]) -> dict[str, Any]:
    """What a run that has ended leaves to the next: its optimiser's state left out, and weights
    in bfloat16, in which they are published and small enough to be kept with the code."""
    return {
        name: {own: weight.bfloat16() for own, weight in part.items()}
        for name, part in state.items()
        if name != "optimizer"
    }


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Options of every step that learns."""
    has_gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if has_gpu else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the training, on a CPU")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw ahead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--begin", default="", help="run to go on from, or 'published'")


@dataclass(slots=True)
class Loop:
    """Runs steps from where a saved state stopped; step k draws from a generator of its own."""

    path: Path
    steps: int
    seed: int
    state: Callable[[], dict[str, Any]]
    load: Callable[[dict[str, Any]], None]
    step: int = 0
    spent_s: float = 0.0
    """On all steps so far, stops left out."""
    is_stopped: bool = False
    means: dict[str, float] = field(default_factory=dict)

    def resume(self, begin: str = "", begin_as_published: Callable[[], None] | None = None) -> None:
        """Take up this run's state; where it has none, begin with what another run learnt, its
        optimiser's state left out, with what is published, or from nothing."""
        if self.path.exists():
            saved = saved_run(self.path)
            self.load(saved["state"])
            self.step, self.spent_s = saved["step"], saved["spent_s"]
            print(f"going on from step {self.step} of {self.steps}", flush=True)
        elif begin == PUBLISHED and begin_as_published:
            begin_as_published()
        elif begin:
            self.load(handed_on(saved_run(self.path.with_name(begin))["state"]))

    def run(self, one: Callable[[np.random.Generator, int], dict[str, float]]) -> None:
        """Call `one` for each step that is left; it returns what to print. An interrupt ends it
        after the step at hand, with exit code 130."""
        signal.signal(signal.SIGINT, self._stop)
        began, saved_s = time.monotonic() - self.spent_s, self.spent_s
        while self.step < self.steps and not self.is_stopped:
            told = one(np.random.default_rng((self.seed, self.step)), self.step)
            for name, value in told.items():
                self.means[name] = 0.96 * self.means.get(name, value) + 0.04 * value
            self.step += 1
            self.spent_s = time.monotonic() - began
            if self.step % SAY_EVERY == 0:
                numbers = " ".join(f"{name} {value:.3f}" for name, value in self.means.items())
                print(f"step {self.step} {numbers} {self.spent_s:.0f} s", flush=True)
            if self.spent_s - saved_s > SAVE_EVERY_S:
                self.save()
                saved_s = self.spent_s
        self.save()
        if self.is_stopped:
            print(f"stopped behind step {self.step}; run it again to go on", flush=True)
            sys.exit(130)
        print(f"{self.steps} steps in {self.spent_s / 60:.0f} minutes", flush=True)

    def _stop(self, *_: object) -> None:
        self.is_stopped = True

    def save(self) -> None:
        part = self.path.with_suffix(".part")
        state = self.state()
        if self.step == self.steps:
            state = handed_on(state)
        saved = {"state": state, "step": self.step, "spent_s": self.spent_s}
        torch.save(saved, part)
        part.replace(self.path)
