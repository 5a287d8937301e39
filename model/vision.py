"""FrameBatch → visual features: own front-end, no torchvision.

Nothing in the vision tower crosses a temporal patch, so pairs may be encoded in any groups: exact.
All pairs of a video have one size, so a group goes through attention as one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from model.attention import attend_apart
from model.memory import vision_patches
from model.products import linear
from model.spec import VisionSpec
from schemas.media import RgbArray


@dataclass(frozen=True, slots=True)
class PairFeatures:
    """Features of consecutive patch pairs, main level first, then the DeepStack levels."""

    levels: tuple[Tensor, ...]
    """Each (pairs × tokens per pair, hidden of the decoder)."""


def patchify(rgb: RgbArray, spec: VisionSpec, dtype: torch.dtype = torch.float32) -> Tensor:
    """(frames, H, W, 3) uint8 → (pairs, patches, values) of `dtype`.

    Patches in merge-block order, values in channel, time, row, column order; x / 127.5 − 1.
    """
    n, height, width, _ = rgb.shape
    t, p, m = spec.frames_per_patch, spec.patch_px, spec.merge
    rows, cols = height // (p * m), width // (p * m)
    # A copy of the bytes: frames from shared memory are read-only, which torch does not take.
    x = torch.tensor(rgb).reshape(n // t, t, rows, m, p, cols, m, p, 3)
    # Bytes are moved before they are widened. 0…255 and its distance from 127.5 have eight
    # binary digits: exact in bfloat16, so that only the quotient is rounded.
    x = x.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(n // t, rows * cols * m * m, 3 * t * p * p)
    return x.to(dtype).sub_(127.5).div_(127.5)


class VisionEncoder:
    """The checkpoint's vision tower, run over groups of pairs of one size."""

    def __init__(self, tower: nn.Module, spec: VisionSpec) -> None:
        self._tower: Any = tower  # the library types its modules loosely
        self._spec = spec
        self._token_px = spec.patch_px * spec.merge
        self._tables: dict[tuple[int, int], tuple[Tensor, tuple[Tensor, Tensor]]] = {}

    @torch.inference_mode()
    def encode(self, rgb: RgbArray) -> PairFeatures:
        """Features of all pairs of `rgb` (frames, H, W, 3), in order; an image is given twice."""
        tokens = (
            len(rgb)
            // self._spec.frames_per_patch
            * rgb.shape[1]
            * rgb.shape[2]
            // self._token_px**2
        )
        weight = self._tower.pos_embed.weight
        # Filled in place: joining the groups at the end would hold every feature twice.
        levels = [
            weight.new_empty((tokens, self._spec.out_hidden))
            for _ in range(1 + len(self._spec.deepstack))
        ]
        at = 0
        for part in self._groups(rgb):
            group = self._encode_group(patchify(part, self._spec, weight.dtype), part)
            for level, features in zip(levels, group, strict=True):
                level[at : at + len(features)] = features
            at += len(group[0])
        return PairFeatures(tuple(levels))

    def _groups(self, rgb: RgbArray) -> Iterator[RgbArray]:
        patches = rgb.shape[1] * rgb.shape[2] // self._spec.patch_px**2
        at_once = vision_patches(self._spec, self._tower.pos_embed.weight.element_size())
        pairs = max(1, at_once // patches)
        step = pairs * self._spec.frames_per_patch
        for start in range(0, len(rgb), step):
            yield rgb[start : start + step]

    def _encode_group(self, pixels: Tensor, rgb: RgbArray) -> list[Tensor]:
        tower = self._tower
        places, rope = self._table(rgb.shape[1], rgb.shape[2])
        weight = tower.patch_embed.proj.weight
        x = linear(pixels.to(weight.device), weight.flatten(1), tower.patch_embed.proj.bias)
        x = x + places.to(x.dtype)
        deep: list[Tensor] = []
        for number, block in enumerate(tower.blocks):
            x = x + self._attend(block.attn, block.norm1(x), rope)
            x = x + block.mlp(block.norm2(x))
            if number in self._spec.deepstack:
                merger = tower.deepstack_merger_list[self._spec.deepstack.index(number)]
                deep.append(merger(x.flatten(0, 1)))
        return [tower.merger(x.flatten(0, 1)), *deep]

    def _attend(self, attention: Any, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        n, length, width = x.shape
        q, k, v = attention.qkv(x).reshape(n, length, 3, attention.num_heads, -1).unbind(2)
        q, k = apply_rotary_pos_emb_vision(q, k, *rope)
        out = attend_apart(q, k, v, attention.scaling)
        projected: Tensor = attention.proj(out.reshape(n, length, width))
        return projected

    def _table(self, height: int, width: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Position embeddings and rotary tables of one frame size; the same for every pair."""
        size = height // self._spec.patch_px, width // self._spec.patch_px
        if size not in self._tables:
            tower, merge = self._tower, self._spec.merge
            grid = torch.tensor([[1, *size]], device=tower.pos_embed.weight.device)
            indices, weights = get_vision_interpolation_indices_and_weights(
                grid,
                num_grid_per_side=tower.num_grid_per_side,
                mode=tower.interpolation_mode,
                align_corners=tower.interpolation_align_corners,
                spatial_merge_size=merge,
                kwargs={},
            )
            places = (tower.pos_embed(indices) * weights[:, :, None]).sum(1)
            ids = get_vision_position_ids(grid, merge, kwargs={})
            self._tables[size] = places, tower.rotary_pos_emb(places, ids)
        return self._tables[size]
