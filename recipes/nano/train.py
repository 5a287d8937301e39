"""All steps in order. A step whose result is there already is not done again; a step that was
stopped is taken up by running this again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from recipes.nano.shape import RUNS


def steps(threads: int) -> list[tuple[str, list[str]]]:
    """(result in `runs/`, command), in order."""
    few = ["--threads", str(threads)]
    last = (
        "find --minutes 20 --start worded.pt --keep-optimizer --stage 3 --lr 1e-3 --tokens 4500 "
        "--decline 0.85 --kept kept.pt --worded-share 0.25 --clip-share 0.5 --vision tower.pt "
        "--name final.pt"
    )
    longer = (
        "find --minutes 16 --start final.pt --keep-optimizer --stage 4 --lr 1e-3 --tokens 5000 "
        "--decline 0.8 --kept kept.pt --worded-share 0.3 --clip-share 0.5 --vision tower.pt "
        "--name long.pt"
    )
    return [
        ("casts00200.pkl", ["bank", "--first", "100000", "--count", "240"]),
        ("clips00060.pkl", ["clips", "--count", "80"]),
        ("vision.pt", ["see", "--minutes", "45", *few]),
        ("kept.pt", ["features", *few]),
        ("worded.pt", ["find", "--minutes", "25", "--name", "worded.pt", *few]),
        ("final.pt", [*last.split(), *few]),
        ("long.pt", [*longer.split(), *few]),
        ("", ["export", "--run", "long.pt"]),
        ("", ["evaluate"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    RUNS.mkdir(exist_ok=True)
    for result, command in steps(options.threads):
        done = RUNS / f"{result}.done"
        if result and done.exists():
            continue
        print(" ".join(command), flush=True)
        module = f"recipes.nano.{command[0]}"
        subprocess.run([sys.executable, "-m", module, *command[1:]], check=True)
        if result:
            done.touch()


if __name__ == "__main__":
    main()
