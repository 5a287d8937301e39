"""All steps: reading and retrieving, which know nothing of each other, side by side, then export.

Steps stop by their count, and step k draws from a generator of its own: run it again to take up a
stopped one; a rerun with the same libraries and threads on a like CPU gives the same weights.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from recipes.nano.shape import RUNS


@dataclass(frozen=True, slots=True)
class Step:
    """One run of a module; `name` stands before what it prints and marks it done."""

    name: str
    module: str
    arguments: str


READING = (
    Step("see", "seeing.see", "--name reader.pt --steps 10500"),
    Step("see_on", "seeing.see", "--begin reader.pt --name reader2.pt --steps 5000 --seed 1"),
    Step("see_last", "seeing.see", "--begin reader2.pt --name reader3.pt --steps 5500 --seed 2"),
)
"""Behind the first, the rate goes up and down again."""
RETRIEVING = (
    Step("retrieve", "retrieving.retrieve", "--name decoder.pt --steps 6000"),
    Step(
        "spans",
        "retrieving.retrieve",
        "--begin decoder.pt --name spans.pt --spans 0.7 --fitted 0 1 --steps 1400 --decline 0.02"
        " --parts 2",
    ),
    Step(
        "spans_link",
        "retrieving.retrieve",
        "--begin spans.pt --name spans2.pt --spans 0.5 --recall --fitted 2 --steps 6000 --seed 1"
        " --answering 3 --parts 2",
    ),
    Step(
        "spans_again",
        "retrieving.retrieve",
        "--begin spans2.pt --name spans3.pt --spans 0.4 --steps 5000 --seed 2 --answering 3"
        " --lr 7e-4 --parts 2",
    ),
    Step(
        "spans_more",
        "retrieving.retrieve",
        "--begin spans3.pt --name spans4.pt --spans 0.5 --steps 7000 --seed 3 --answering 3"
        " --parts 2",
    ),
)
"""First codes and things, by a decoder of three layers; then a layer is added for spans, and
answers weigh more than what is told on the way to them, while the rate goes up and down."""
CHAINS = {"reading": READING, "retrieving": RETRIEVING}
GOING_ON = ("--lr", "1e-3", "--decline", "1.0")
"""Of steps that begin with what another one learnt, where they say nothing else."""


def run_chain(chain: tuple[Step, ...], threads: int) -> int:
    """Exit code of the first step that fails, or 0."""
    for step in chain:
        done = RUNS / f"{step.name}.done"
        if done.exists():
            continue
        on = GOING_ON if "--begin" in step.arguments else ()
        command = [sys.executable, "-m", f"recipes.nano.{step.module}"]
        command += ["--threads", str(threads), *on, *step.arguments.split()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(f"{step.name}: {line}", end="", flush=True)
        if process.returncode:
            return process.returncode
        done.touch()
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", choices=CHAINS, help="this alone, and no export: the other runs elsewhere"
    )
    parser.add_argument("--threads", type=int, help="of each that runs; else all cores, shared")
    options = parser.parse_args()
    chains = [CHAINS[options.only]] if options.only else [*CHAINS.values()]
    threads = options.threads or max(1, (os.cpu_count() or 1) // len(chains))
    RUNS.mkdir(parents=True, exist_ok=True)
    # Ctrl-C is for the runs, which end the step at hand.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with ThreadPoolExecutor(len(chains)) as pool:
        ends = [pool.submit(run_chain, chain, threads) for chain in chains]
    code = max(end.result() for end in ends)
    if not code and not options.only:
        code = run_chain((Step("export", "export", ""),), threads)
    sys.exit(code)


if __name__ == "__main__":
    main()
