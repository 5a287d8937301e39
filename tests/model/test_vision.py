"""Vision features: chunked against whole, ours against the library's tower."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model import vision
from model.facts import load_checkpoint
from model.vision import VisionEncoder, patchify
from tests.model.tiny import Shape, Tiny, library_patches, make_frames, make_tiny


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return make_tiny()


def encoder_of(tiny: Tiny) -> VisionEncoder:
    return VisionEncoder(tiny.reference.model.visual, load_checkpoint(str(tiny.folder)).spec.vision)


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (2, 3), (3, 2)])
def test_patches_equal_the_processors(tiny: Tiny, rows: int, cols: int) -> None:
    rgb = make_frames(4, rows, cols)
    expected, grid = library_patches(rgb)
    got = patchify(rgb, load_checkpoint(str(tiny.folder)).spec.vision)
    assert got.shape[0] == grid[0, 0]
    assert (got.flatten(0, 1) - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("deepstack", [(), (0,), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (2, 3)])
def test_features_equal_the_librarys(deepstack: tuple[int, ...], rows: int, cols: int) -> None:
    tiny = make_tiny(Shape(deepstack=deepstack))
    rgb = make_frames(6, rows, cols)
    pixels, grid = library_patches(rgb)
    with torch.no_grad():
        whole = tiny.reference.model.visual(pixels, grid)
    got = encoder_of(tiny).encode(rgb)
    assert len(got.levels) == 1 + len(deepstack)
    expected = [whole.pooler_output, *whole.deepstack_features]
    for ours, theirs in zip(got.levels, expected, strict=True):
        assert ours.shape == (3 * rows * cols, 64)
        assert (ours - theirs).abs().max() <= 1e-4


def test_features_of_parts_equal_those_of_the_whole(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = make_frames(8)
    encoder = encoder_of(tiny)
    whole = encoder.encode(rgb)
    parts = [encoder.encode(rgb[start : start + 2]) for start in range(0, 8, 2)]
    for level, ours in enumerate(whole.levels):
        joined = torch.cat([part.levels[level] for part in parts])
        assert (ours - joined).abs().max() <= 1e-5
    monkeypatch.setattr(vision, "vision_patches", lambda _spec, _bytes: 50)
    grouped = encoder.encode(rgb)
    assert (whole.levels[0] - grouped.levels[0]).abs().max() <= 1e-5


def test_a_frame_changes_its_own_pair_only(tiny: Tiny) -> None:
    rgb = make_frames(6)
    other = rgb.copy()
    other[2] = 255 - other[2]
    before, after = encoder_of(tiny).encode(rgb), encoder_of(tiny).encode(other)
    changed = (before.levels[0] != after.levels[0]).any(dim=1).reshape(3, 6)
    assert changed.any(dim=1).tolist() == [False, True, False]


def test_read_only_frames_are_welcome(tiny: Tiny) -> None:
    """Frames that come out of shared memory cannot be written to."""
    rgb = make_frames(2)
    rgb.setflags(write=False)
    assert encoder_of(tiny).encode(np.asarray(rgb)).levels[0].shape == (6, 64)
