"""All steps in order. Steps stop by their count, and step k draws from a generator of its own: run
it again to take up a stopped one, and a rerun on the same libraries gives the same weights.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from recipes.nano.next.shape import RUNS


def steps(threads: int) -> list[tuple[str, str, list[str]]]:
    """(name, module, arguments), in order. Reading and retrieving know nothing of each other; once
    all else is learnt, pairs are taught apart that only look alike by where they stand; then a
    layer is added, and spans are learnt beside."""
    few = ["--threads", str(threads)]
    on = [*few, "--lr", "1e-3", "--decline", "1.0"]
    see_on = ["--begin", "reader.pt", "--name", "reader2.pt", "--steps", "5000", "--seed", "1"]
    see_last = ["--begin", "reader2.pt", "--name", "reader3.pt", "--steps", "5500", "--seed", "2"]
    apart = ["--begin", "decoder.pt", "--name", "decoder2.pt", "--steps", "4000", "--seed", "1"]
    again = ["--begin", "decoder2.pt", "--name", "decoder3.pt", "--steps", "4000", "--seed", "3"]
    grow = ["--begin", "decoder3.pt", "--name", "spans.pt", "--spans", "0.7", "--recall"]
    grow += ["--fitted", "0", "--steps", "12000", "--lr", "1e-3"]
    link = ["--begin", "spans.pt", "--name", "spans2.pt", "--spans", "0.65", "--fitted", "2"]
    both = ["--begin", "spans2.pt", "--name", "spans3.pt", "--spans", "0.5", "--seed", "2"]
    return [
        ("see", "see", few),
        ("see_on", "see", [*on, *see_on]),
        ("see_last", "see", [*on, *see_last]),
        ("retrieve", "retrieve", few),
        ("retrieve_apart", "retrieve", [*on, *apart]),
        ("retrieve_again", "retrieve", [*on, *again]),
        ("spans", "retrieve", [*few, *grow]),
        ("spans_link", "retrieve", [*on, *link, "--steps", "17000", "--seed", "1"]),
        ("spans_last", "retrieve", [*on, *both, "--steps", "9000"]),
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
        if code := subprocess.run(command, check=False).returncode:
            sys.exit(code)
        done.touch()


if __name__ == "__main__":
    main()
