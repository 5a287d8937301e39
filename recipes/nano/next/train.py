"""All steps in order. Steps stop by their count, and step k draws from a generator of its own: run
it again to take up a stopped one, and a rerun on the same libraries gives the same weights.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from recipes.nano.next.shape import RUNS


def steps(threads: int) -> list[tuple[str, str, list[str]]]:
    """(name, module, arguments), in order. Reading is learnt three times, each from a lower rate;
    matching five times: then on full lessons, mostly by things, which come late, and last evenly,
    because what is asked seldom is forgotten."""
    few = ["--threads", str(threads)]
    see_on = ["--begin", "reader.pt", "--name", "reader2.pt", "--lr", "8e-4", "--steps", "4000"]
    see_more = ["--begin", "reader2.pt", "--name", "reader3.pt", "--lr", "8e-4", "--steps", "4200"]
    match_on = ["--begin", "decoder.pt", "--name", "decoder2.pt", "--steps", "4000"]
    match_on += ["--lr", "1.5e-3", "--decline", "1.0", "--knowing", "0", "--seed", "1"]
    things = ["--begin", "decoder2.pt", "--name", "decoder3.pt", "--steps", "2900", "--things"]
    things += ["--lr", "9e-4", "--decline", "1.0", "--knowing", "0", "--seed", "2"]
    even = ["--begin", "decoder3.pt", "--name", "decoder4.pt", "--steps", "4000"]
    even += ["--lr", "1.2e-3", "--decline", "1.0", "--knowing", "0", "--seed", "3"]
    last = ["--begin", "decoder4.pt", "--name", "decoder5.pt", "--steps", "5000"]
    last += ["--lr", "9e-4", "--decline", "1.0", "--knowing", "0", "--seed", "4"]
    names = ["--naming", "0.5"]
    return [
        ("see", "see", few),
        ("see_on", "see", [*few, *see_on, "--decline", "0.9", "--seed", "1"]),
        ("see_more", "see", [*few, *see_more, "--decline", "1.0", "--seed", "2"]),
        ("retrieve", "retrieve", few),
        ("retrieve_on", "retrieve", [*few, *match_on]),
        ("retrieve_things", "retrieve", [*few, *things]),
        ("retrieve_even", "retrieve", [*few, *even, *names]),
        ("retrieve_last", "retrieve", [*few, *last, *names]),
        ("export", "export", []),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    for step, module, arguments in steps(options.threads):
        done = RUNS / f"{step}.done"
        if done.exists():
            continue
        print(step, flush=True)
        command = [sys.executable, "-m", f"recipes.nano.next.{module}", *arguments]
        subprocess.run(command, check=True)
        done.touch()


if __name__ == "__main__":
    main()
