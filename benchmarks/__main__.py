"""Runs every benchmark: `python -m benchmarks [NAME…]`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    names = sys.argv[1:] or sorted(p.stem for p in HERE.glob("*.py") if not p.stem.startswith("_"))
    failed = [
        n for n in names if subprocess.run([sys.executable, "-m", f"benchmarks.{n}"]).returncode
    ]
    if failed:
        sys.exit(f"did not run through: {', '.join(failed)}")


if __name__ == "__main__":
    main()
