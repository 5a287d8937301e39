"""Peak memory of a session, read by the operating system, against the plan.

Each length in processes of its own, one pass each from an empty session to an answer, bfloat16; the
median of three. What
stands above weights and KV cache is counted from a process that has loaded the model and answered a
question on one patch pair; the plan's figure is compared with everything above the bare
interpreter.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._claim import claim
from benchmarks._shapes import (
    NANO_SHAPE,
    WIDE_2B,
    fill,
    plan_tokens,
    status_bytes,
    write_checkpoint,
)
from schemas.ports import Question

QUESTION = Question("q", "\nWhen is a red circle on screen?", "events", (), 32)
MIB = 1024**2
CASES = {
    "nano_32k": (NANO_SHAPE, 32_768),
    "nano_128k": (NANO_SHAPE, 131_072),
    "nano_256k": (NANO_SHAPE, 262_144),
    "2b_16k": (WIDE_2B, 16_384),
}


def measure(folder: str, tokens: int, kv_dtype: str) -> dict[str, int]:
    """One pass in this process, in bytes."""
    bare = status_bytes("VmRSS")
    import jobs.session  # noqa: F401 - a job's process has all of its libraries
    from model.engine import load_model

    model = load_model(folder, dtype="bfloat16", kv_dtype=kv_dtype)
    facts = model.facts
    plans = [plan_tokens(facts, model.counter, n, [QUESTION]) for n in (200, tokens)]
    for plan in plans:
        loaded = status_bytes("VmRSS")
        fill(model, plan).ask([QUESTION])
    return {
        "tokens": plan.total_tokens,
        "predicted": plan.memory.total_bytes,
        "total": status_bytes("VmHWM") - bare,
        "above": status_bytes("VmHWM") - loaded - plan.memory.kv_bytes,
        "kv": plan.memory.kv_bytes,
    }


def run_child(folder: str, tokens: int, kv_dtype: str = "auto") -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.memory", "--child", folder, str(tokens), kv_dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help="which; none: all of them")
    parser.add_argument("--child", nargs=3, metavar=("FOLDER", "TOKENS", "KV"))
    options = parser.parse_args()
    if options.child:
        folder, tokens, kv_dtype = options.child
        print(json.dumps(measure(folder, int(tokens), kv_dtype)))
        return
    above: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as root:
        folders = {
            shape: str(write_checkpoint(shape, Path(root) / str(number)))
            for number, shape in enumerate((NANO_SHAPE, WIDE_2B))
        }
        for name in options.cases:
            shape, tokens = CASES[name]
            # The heap's own leftovers vary by tens of MiB from run to run.
            runs = [run_child(folders[shape], tokens) for _ in range(3)]
            found = sorted(runs, key=lambda run: run["above"])[1]
            above[name] = found["above"]
            print(
                f"{name}: {found['tokens']} tokens, KV cache {found['kv'] / MIB:.0f} MiB; in all "
                f"{found['total'] / MIB:.0f} MiB, predicted {found['predicted'] / MIB:.0f} MiB"
            )
            if shape is NANO_SHAPE:
                claim(f"above_kv_mib_{name}", found["above"] / MIB, 200, at_most=True)
            error = abs(found["predicted"] / found["total"] - 1)
            claim(f"memory_prediction_error_{name}", error, 0.10, at_most=True)
    flat = [size for name, size in above.items() if name.startswith("nano")]
    if len(flat) > 1:
        claim("above_kv_flat", max(flat) / min(flat), 1.10, at_most=True)


if __name__ == "__main__":
    main()
