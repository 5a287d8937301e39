"""Step 1a: pictures. Patch pairs of any grid with things and codes, drawn at the size they are
seen, by the thousand: no picture is shown twice.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from pipeline.lettering import (
    ALPHABET,
    CODE_LENGTH,
    Look,
    Written,
    blend,
    random_code,
    random_look,
    write_code,
)
from pipeline.scenes import SHAPES
from recipes.nano.codes import CLASSES
from recipes.nano.seeing.paint import PALETTE, backgrounds, distance
from recipes.nano.shape import TOKEN_PX

CAP_PX = (17.0, 38.0)
"""Letter height as it is seen, from–to."""
RADIUS_PX = (11.5, 30.0)
"""Half a thing's size as it is seen, from–to; small frames bound it further."""
BAND_PX = 7.0
"""So near to a token's edge its neighbour may hold a code or thing too: it is neither told to nor
not to."""

MORE_OUTLINES, MORE_THIN = 0.4, 0.15
"""Shares of the codes on plates, and of those in plain or bold letters, that get an outline or thin
letters instead: outlines are read wrongly four times as often, thin ones more often still."""
FINEST = 3.0
"""How many times as fine as it is seen a file's frame may be."""
CLUTTERED, CLUTTER = 1 / 3, 14
"""Share of the pairs with bars and lines on their background, and how many of these."""

PATCH_PX = TOKEN_PX // 2

Frame = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Patch pairs of one grid with what each token should hold."""

    pairs: Tensor
    """(pairs, 2, H, W, 3) uint8."""
    things: Tensor
    """(pairs, tokens, classes) 0 or 1: at the token of a thing's centre."""
    letters: Tensor
    """(pairs, tokens, slots) index of the letter, −1 where there is none."""
    is_told: Tensor
    """(pairs, tokens) bool: off where something is so near that either is right."""
    beside: Tensor
    """(pairs, tokens) a neighbour whose only thing or code is so near that this token may hold it
    too, in part or in full, and nothing else; −1 where there is none."""
    spelt: Tensor
    """(pairs, patches in merge-block order, 2): letter and slot at a letter's middle, else −1."""


def draw_pictures(
    n: int, grid: tuple[int, int], rng: np.random.Generator, *, items: float = 1.0
) -> Pictures:
    """`n` pairs; `items` scales how crowded they are."""
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
    height, width = grid[0] * TOKEN_PX, grid[1] * TOKEN_PX
    image = backgrounds(n, height, width, generator)
    frames = image.permute(0, 1, 3, 4, 2).contiguous().numpy()
    tokens = grid[0] * grid[1]
    labels = [_Labels.blank(tokens) for _ in range(n)]
    room = height * width / (66 * 80)
    for own, frame_pair in zip(labels, frames, strict=True):
        if rng.uniform() < CLUTTERED:
            add_clutter(frame_pair, rng)
        taken: list[Box] = []
        for _ in range(int(rng.poisson(1.5 * room * items)) + (rng.uniform() < 0.5)):
            draw = _add_code if rng.uniform() < 0.66 else _add_thing
            draw(frame_pair, taken, rng, own, grid)
    pairs = np.stack([_spoil(pair, rng) for pair in frames])
    return Pictures(
        torch.from_numpy(pairs),
        torch.stack([own.things for own in labels]),
        torch.stack([own.letters for own in labels]),
        torch.stack([(own.near == 0) | (own.homes > 0) for own in labels]),
        torch.stack([own.beside_one() for own in labels]),
        torch.stack([own.spelt for own in labels]),
    )


def add_clutter(pair: Frame, rng: np.random.Generator) -> None:
    """Dull bars, and lines from corner to corner of such, as scenes have them."""
    tall, wide = pair.shape[1:3]
    frames = [Image.fromarray(frame.astype(np.uint8)) for frame in pair]
    pens = [ImageDraw.Draw(frame) for frame in frames]
    for _ in range(CLUTTER):
        x, y, across, down = rng.uniform((-0.1, 0, 0.03, 0.03), (1.1, 1, 0.25, 0.25))
        colour = tuple(
            int(v) for v in np.clip(rng.uniform(45, 170) + rng.uniform(-28, 28, 3), 0, 255)
        )
        is_bar, line_px = rng.uniform() < 0.6, int(rng.uniform(1, 2 + tall / 50))
        moved = rng.uniform(-0.01, 0.01)
        for number, pen in enumerate(pens):
            left, top = (x + number * moved) * wide, y * tall
            box = (left, top, left + across * tall, top + down * tall)
            if is_bar:
                pen.rectangle(box, fill=colour)
            else:
                pen.line(box, fill=colour, width=line_px)
    for own, frame in zip(pair, frames, strict=True):
        own[:] = np.asarray(frame)


def _spoil(pair: Frame, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """What files do to two frames: grain, blur, and what JPEG does to edges and colours."""
    grain = rng.standard_normal(pair.shape[:3], dtype=np.float32)[..., None]
    gain = np.float32(rng.uniform(0.93, 1.07))
    loud = np.clip((pair + np.float32(rng.uniform(0, 7)) * grain) * gain, 0, 255)
    image = Image.fromarray(loud.astype(np.uint8).reshape(-1, *pair.shape[2:]))
    if rng.uniform() < 0.35:
        image = image.filter(ImageFilter.BoxBlur(float(rng.uniform(0.2, 0.8))))
    if rng.uniform() < 0.85:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(rng.integers(20, 92)))
        image = Image.open(buffer)
    return np.asarray(image).reshape(pair.shape)


@dataclass(slots=True)
class _Labels:
    """What one pair's tokens should hold, under construction."""

    things: Tensor
    letters: Tensor
    spelt: Tensor
    homes: Tensor
    """(tokens,) things and codes with their middle in it."""
    near: Tensor
    """(tokens,) things and codes with their middle in a neighbour, close to the edge."""
    beside: Tensor
    """(tokens,) that neighbour, the last of them; −1 where there is none."""

    @staticmethod
    def blank(tokens: int) -> _Labels:
        return _Labels(
            torch.zeros(tokens, len(CLASSES)),
            torch.full((tokens, CODE_LENGTH), -1),
            torch.full((4 * tokens, 2), -1),
            torch.zeros(tokens, dtype=torch.long),
            torch.zeros(tokens, dtype=torch.long),
            torch.full((tokens,), -1),
        )

    def claim(self, at_px: tuple[float, float], grid: tuple[int, int]) -> int:
        """The token that holds (x, y)."""
        cols, rows = (_near_tokens(v, n) for v, n in zip(at_px, (grid[1], grid[0]), strict=True))
        home = rows[0][0] * grid[1] + cols[0][0]
        self.homes[home] += 1
        for row, row_is_near in rows:
            for col, col_is_near in cols:
                if row_is_near or col_is_near:
                    self.near[row * grid[1] + col] += 1
                    self.beside[row * grid[1] + col] = home
        return home

    def beside_one(self) -> Tensor:
        """`Pictures.beside`."""
        is_one = (self.near == 1) & (self.homes == 0) & (self.homes[self.beside] == 1)
        return torch.where(is_one, self.beside, -1)


def _add_code(
    frames: Frame,
    taken: list[Box],
    rng: np.random.Generator,
    labels: _Labels,
    grid: tuple[int, int],
) -> None:
    _, height, width, _ = frames.shape
    high = min(CAP_PX[1], width / 2.7, height / 1.6)
    cap_px = math.exp(rng.uniform(math.log(CAP_PX[0]), math.log(high)))
    code = random_code(rng)
    finer = max(1.0, float(rng.uniform(2 - FINEST, FINEST)))
    written = as_seen(write_code(code, hard_look(rng), finer * cap_px), finer)
    tall, wide = written.ink.shape
    place = _find_place(rng, taken, (height, width), (tall, wide))
    if place is None:
        return
    x, y = place
    dx, dy = _motion(rng)
    for number in _frames_shown(rng):
        side = number - 0.5
        blend(frames[number], written, x + dx * side, y + dy * side)
    letters = torch.tensor([ALPHABET.index(letter) for letter in code])
    labels.letters[labels.claim(place, grid)] = letters
    for slot, (letter, letter_x) in enumerate(zip(code, written.letters_x, strict=True)):
        patch = _patch_at(x - wide / 2 + letter_x, y, grid)
        labels.spelt[patch] = torch.tensor([ALPHABET.index(letter), slot])


def hard_look(rng: np.random.Generator) -> Look:
    """Any look; those that are hard to read come more often than in videos."""
    look = random_look(rng)
    if rng.uniform() < MORE_OUTLINES:
        look = replace(look, has_plate=False)
    return replace(look, weight=0) if rng.uniform() < MORE_THIN else look


def as_seen(written: Written, finer: float) -> Written:
    """A code in frames that are brought to a part of their size: its outline gets thinner than any
    that is drawn at the size it is seen."""
    if finer == 1.0:
        return written
    tall, wide = written.ink.shape
    size = max(3, round(wide / finer)), max(3, round(tall / finer))
    bilinear = Image.Resampling.BILINEAR
    ink, cover = (
        np.asarray(Image.fromarray(own).resize(size, bilinear))
        for own in (written.ink, written.cover)
    )
    # Plates show where there is no ink: of a pixel that holds both, in cover less ink of it.
    behind = np.clip((cover - ink) / np.maximum(1 - ink, 1e-3), 0, 1)
    return Written(ink, behind, written.look, tuple(x / finer for x in written.letters_x))


def _patch_at(x: float, y: float, grid: tuple[int, int]) -> int:
    """The patch that holds a pixel, counted in merge-block order."""
    row = min(2 * grid[0] - 1, max(0, int(y // PATCH_PX)))
    col = min(2 * grid[1] - 1, max(0, int(x // PATCH_PX)))
    return ((row // 2) * grid[1] + col // 2) * 4 + row % 2 * 2 + col % 2


def _near_tokens(at_px: float, count: int) -> list[tuple[int, bool]]:
    """The token that holds `at_px`, and the neighbour that it is close to."""
    home = min(count - 1, max(0, int(at_px // TOKEN_PX)))
    inside = at_px - home * TOKEN_PX
    near = [(home, False)]
    if inside < BAND_PX and home:
        near.append((home - 1, True))
    if inside > TOKEN_PX - BAND_PX and home + 1 < count:
        near.append((home + 1, True))
    return near


def _add_thing(
    frames: Frame,
    taken: list[Box],
    rng: np.random.Generator,
    labels: _Labels,
    grid: tuple[int, int],
) -> None:
    _, height, width, _ = frames.shape
    high = max(RADIUS_PX[0] + 0.5, min(RADIUS_PX[1], 0.22 * height))
    radius = math.exp(rng.uniform(math.log(RADIUS_PX[0]), math.log(high)))
    place = _find_place(rng, taken, (height, width), (2.1 * radius, 2.1 * radius))
    if place is None:
        return
    x, y = place
    dx, dy = _motion(rng)
    colour, shape = int(rng.integers(6)), int(rng.integers(6))
    tint = PALETTE[colour].numpy() + rng.normal(0, 6, 3)
    stretch = float(rng.uniform(0.9, 1.1))
    for number in _frames_shown(rng):
        side = number - 0.5
        _paint(frames[number], (x + dx * side, y + dy * side), radius, stretch, shape, tint)
    labels.things[labels.claim((x, y), grid), colour * len(SHAPES) + shape] = 1


def _paint(
    frame: Frame,
    centre: tuple[float, float],
    radius: float,
    stretch: float,
    shape: int,
    tint: npt.NDArray[np.float64],
) -> None:
    reach = math.ceil(1.3 * radius) + 2
    top, left = max(0, int(centre[1]) - reach), max(0, int(centre[0]) - reach)
    part = frame[top : int(centre[1]) + reach, left : int(centre[0]) + reach]
    y = torch.arange(part.shape[0]).view(-1, 1) + top - centre[1]
    x = torch.arange(part.shape[1]).view(1, -1) + left - centre[0]
    edge = distance(shape, x * stretch, y, torch.tensor(radius))
    alpha = (0.5 - edge).clamp(0, 1).numpy()[..., None]
    part[:] = part * (1 - alpha) + tint.astype(np.float32) * alpha


def _find_place(
    rng: np.random.Generator,
    taken: list[Box],
    frame: tuple[int, int],
    size: tuple[float, float],
) -> tuple[float, float] | None:
    """A free middle (x, y) for something of `size` (tall, wide), which is then taken."""
    tall, wide = size
    if tall > frame[0] or wide > frame[1]:
        return None
    for _ in range(16):
        x = float(rng.uniform(wide / 2, frame[1] - wide / 2))
        y = float(rng.uniform(tall / 2, frame[0] - tall / 2))
        box = (x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2)
        if all(
            box[2] < other[0] or other[2] < box[0] or box[3] < other[1] or other[3] < box[1]
            for other in taken
        ):
            taken.append(box)
            return x, y
    return None


def _motion(rng: np.random.Generator) -> tuple[float, float]:
    """How far something moves from the pair's first frame to its second, in pixels."""
    if rng.uniform() < 0.4:
        return 0.0, 0.0
    return float(rng.normal(0, 3)), float(rng.normal(0, 2))


def _frames_shown(rng: np.random.Generator) -> tuple[int, ...]:
    if rng.uniform() < 0.12:
        return (int(rng.integers(2)),)
    return (0, 1)
