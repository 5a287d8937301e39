"""A tower that is told: features of a haystack as a good tower would give them, to measure the
decoder alone, at any length, before there is a tower.
"""

from __future__ import annotations

import numpy as np
import torch

from model.vision import PairFeatures, VisionEncoder
from pipeline.lettering import ALPHABET
from pipeline.needles import Haystack
from pipeline.scenes import centre_of
from recipes.nano.codes import CLASSES, class_codes, ground_code, letter_codes
from recipes.nano.shape import DEEPSTACK, HIDDEN, TOKEN_PX
from schemas.media import RgbArray

NOISE = 0.1


class ToldTower:
    """Stands in for `VisionEncoder.encode`; it must be asked for a video's pairs in order."""

    def __init__(self, haystack: Haystack, fps: float) -> None:
        self._scene, self._fps, self._pair = haystack.scene, fps, 0
        self._rng = np.random.default_rng(haystack.scene.seed)

    def encode(self, _encoder: VisionEncoder, rgb: RgbArray) -> PairFeatures:
        """Features of the next pairs, for frames of `rgb`'s number and size."""
        rows, cols = rgb.shape[1] // TOKEN_PX, rgb.shape[2] // TOKEN_PX
        count = len(rgb) // 2
        main = torch.from_numpy(
            self._rng.normal(0, NOISE, (count, rows * cols, HIDDEN)).astype("f4")
        )
        main += ground_code()
        for pair in main:
            for at, vector in self._shown(rows, cols):
                pair[at] += vector
            self._pair += 1
        flat = main.flatten(0, 1)
        return PairFeatures((flat, *(torch.zeros_like(flat) for _ in DEEPSTACK)))

    def _shown(self, rows: int, cols: int) -> list[tuple[int, torch.Tensor]]:
        times = [(2 * self._pair + k) / self._fps for k in (0, 1)]
        out = []
        for thing in self._scene.tracks:
            share = sum(thing.is_visible(t) for t in times) / 2
            if share:
                x, y = centre_of(self._scene, thing, times[0])
                vector = class_codes()[CLASSES.index(thing.name)]
                out.append((_token(x, y, rows, cols), share * vector))
        for code in self._scene.codes:
            share = sum(code.is_visible(t) for t in times) / 2
            if share:
                x, y = centre_of(self._scene, code, times[0])
                own = [letter_codes()[s, ALPHABET.index(c)] for s, c in enumerate(code.text)]
                out.append((_token(x, y, rows, cols), share * torch.stack(own).sum(0)))
        return out


def _token(x: float, y: float, rows: int, cols: int) -> int:
    row = min(rows - 1, max(0, int(y * rows)))
    return row * cols + min(cols - 1, max(0, int(x * cols)))
