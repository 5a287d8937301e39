"""Step 2: draw casts once and keep them: seeing learns from them, finding from their features."""

from __future__ import annotations

import argparse
import pickle
import time

from recipes.nano.pictures import draw_casts
from recipes.nano.shape import RUNS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--variants", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--name", default="casts")
    options = parser.parse_args()
    started = time.monotonic()
    for part in range(0, options.count, 40):
        casts = draw_casts(options.first + part, 40, options.variants, options.processes)
        with (RUNS / f"{options.name}{part:05d}.pkl").open("wb") as file:
            pickle.dump(casts, file, protocol=5)
        print(f"{part + 40} casts in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
