"""Predicted bytes: arithmetic of the released sizes, and a measured peak."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from model.facts import load_checkpoint
from model.memory import (
    TEMPORARY_BYTES,
    chunk_bytes_per_token,
    fixed_bytes,
    kv_bytes_per_token,
    kv_tail_bytes,
    slice_tokens,
    vision_patches,
)
from model.spec import CheckpointSpec
from model.weight_files import read_weight_files
from schemas.errors import ConfigError
from tests.model.tiny import Shape, make_tiny

ROOT = Path(__file__).parents[2]
MEASURE = """
import json, sys
import numpy as np

def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

base = status("VmRSS")
import jobs.session
from model.engine import load_model
from tests.model.tiny import cut_batches, make_plan

model = load_model(sys.argv[1], threads=1)
plan = make_plan(model.counter, pairs=200, pairs_per_chunk=200, facts=model.facts)
session = model.begin(plan)
rgb = np.full((400, plan.sampling.grid.height, plan.sampling.grid.width, 3), 7, np.uint8)
for batch in cut_batches(plan, rgb):
    session.feed(batch)
session.finish()
print(json.dumps([plan.memory.total_bytes, status("VmHWM") - base]))
"""


def released(layers: int, kv_heads: int) -> CheckpointSpec:
    spec = load_checkpoint(str(make_tiny().folder)).spec
    return replace(spec, text=replace(spec.text, layers=layers, kv_heads=kv_heads, head_dim=128))


@pytest.mark.parametrize(
    ("layers", "kv_heads", "expected"),
    [(28, 8, 114_688), (36, 8, 147_456), (64, 8, 262_144), (48, 4, 98_304), (94, 4, 192_512)],
)
def test_kv_bytes_of_the_released_sizes(layers: int, kv_heads: int, expected: int) -> None:
    assert kv_bytes_per_token(released(layers, kv_heads), "bfloat16") == expected
    assert kv_bytes_per_token(released(layers, kv_heads), "float32") == 2 * expected


@pytest.mark.parametrize(
    ("layers", "kv_heads", "expected"),
    [(28, 8, 58_688), (36, 8, 75_456), (64, 8, 134_144), (48, 4, 50_304), (94, 4, 98_512)],
)
def test_int8_kv_bytes_of_the_released_sizes(layers: int, kv_heads: int, expected: int) -> None:
    spec = released(layers, kv_heads)
    assert kv_bytes_per_token(spec, "int8") == expected
    # One block, number by number: keys, their scales per channel, values, their scales per token.
    block = layers * kv_heads * (64 * 128 + 128 * 2 + 64 * 128 + 64 * 2)
    assert 64 * expected == block
    assert kv_tail_bytes(spec, "int8") == 64 * kv_bytes_per_token(spec, "bfloat16")
    assert kv_tail_bytes(spec, "bfloat16") == 0


def test_a_share_of_a_scale_is_rounded_up() -> None:
    spec = released(1, 1)
    narrow = replace(spec, text=replace(spec.text, head_dim=16))
    assert kv_bytes_per_token(narrow, "int8") == 2 * 16 + 2 + 1


@pytest.mark.parametrize(
    "shape", [Shape(), Shape(tied=False, deepstack=()), Shape(moe=True, tied=False)], ids=str
)
def test_weights_are_counted_from_their_headers(shape: Shape) -> None:
    tiny = make_tiny(shape)
    facts = load_checkpoint(str(tiny.folder)).facts
    assert facts.weight_bytes == 4 * sum(p.numel() for p in tiny.reference.parameters())


def test_a_broken_weight_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for content in (b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b"\x08\0\0\0\0\0\0\0" + b'{"a": 1}'):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"model\.safetensors"):
            read_weight_files(tmp_path)


def test_more_of_everything_needs_more() -> None:
    spec = load_checkpoint(str(make_tiny().folder)).spec
    wide = replace(spec, text=replace(spec.text, hidden=128, ffn=4096))
    deep = replace(spec, vision=replace(spec.vision, deepstack=(0, 1, 2)))
    many = replace(spec, text=replace(spec.text, vocab=150_000))
    for dtype in ("float32", "bfloat16"):
        assert fixed_bytes(wide, dtype) > fixed_bytes(spec, dtype)
        assert chunk_bytes_per_token(deep, dtype) > chunk_bytes_per_token(spec, dtype)
        assert fixed_bytes(many, dtype) > fixed_bytes(spec, dtype)
    assert chunk_bytes_per_token(spec, "bfloat16") < chunk_bytes_per_token(spec, "float32")


def test_slices_keep_temporaries_small() -> None:
    """A slice's widest temporary stays below what the C library gives back at once."""
    spec = load_checkpoint(str(make_tiny().folder)).spec
    for ffn in (192, 6144, 12_288, 25_600):
        wide = replace(spec, text=replace(spec.text, ffn=ffn))
        count = slice_tokens(wide, "bfloat16")
        assert count % 256 == 0
        assert 256 <= count <= 8192
        assert count * ffn * 2 <= TEMPORARY_BYTES
    tower = replace(spec.vision, ffn=4304, hidden=1152)
    assert 256 <= vision_patches(tower, 2) <= 4096
    assert vision_patches(tower, 2) > vision_patches(tower, 4)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_measured_peak_is_near_the_prediction() -> None:
    """From the bare interpreter to a filled session, libraries included."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(make_tiny().folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    predicted, measured = json.loads(done.stdout)
    assert 0.85 * predicted <= measured <= 1.1 * predicted
