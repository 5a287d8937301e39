"""Codes on screen: short rows of capital letters in several faces, weights, widths and slants.

Letters that look alike in poor pictures are left out of the alphabet. Numpy and Pillow only; one
face comes with Pillow, the others are drawn here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

ALPHABET = "ACDEHJKLMPRTUXYZ"
CODE_LENGTH = 3
FACES = ("sans", "pixel", "stroke")
WEIGHTS = (0, 1, 2)

_CAP = 48
"""Height in pixels that letters are drawn at before they are brought to size."""
_EDGE = 8
"""Empty pixels around a letter at that size."""

_Line = tuple[tuple[float, float], ...]
_STROKES: dict[str, tuple[_Line, ...]] = {
    "A": (((0, 1), (0.35, 0), (0.7, 1)), ((0.13, 0.65), (0.57, 0.65))),
    "C": (
        ((0.68, 0.15), (0.5, 0), (0.2, 0), (0, 0.25), (0, 0.75), (0.2, 1), (0.5, 1), (0.68, 0.85)),
    ),
    "D": (((0, 0), (0, 1), (0.35, 1), (0.65, 0.75), (0.65, 0.25), (0.35, 0), (0, 0)),),
    "E": (((0.6, 0), (0, 0), (0, 1), (0.6, 1)), ((0, 0.5), (0.48, 0.5))),
    "H": (((0, 0), (0, 1)), ((0.65, 0), (0.65, 1)), ((0, 0.5), (0.65, 0.5))),
    "J": (((0.5, 0), (0.5, 0.75), (0.38, 1), (0.15, 1), (0, 0.78)),),
    "K": (((0, 0), (0, 1)), ((0.62, 0), (0, 0.55)), ((0.2, 0.4), (0.65, 1))),
    "L": (((0, 0), (0, 1), (0.55, 1)),),
    "M": (((0, 1), (0, 0), (0.4, 0.6), (0.8, 0), (0.8, 1)),),
    "P": (((0, 1), (0, 0), (0.4, 0), (0.6, 0.12), (0.6, 0.4), (0.4, 0.53), (0, 0.53)),),
    "R": (
        ((0, 1), (0, 0), (0.4, 0), (0.6, 0.12), (0.6, 0.4), (0.4, 0.53), (0, 0.53)),
        ((0.3, 0.53), (0.62, 1)),
    ),
    "T": (((0, 0), (0.7, 0)), ((0.35, 0), (0.35, 1))),
    "U": (((0, 0), (0, 0.75), (0.17, 1), (0.48, 1), (0.65, 0.75), (0.65, 0)),),
    "X": (((0, 0), (0.65, 1)), ((0.65, 0), (0, 1))),
    "Y": (((0, 0), (0.34, 0.5), (0.68, 0)), ((0.34, 0.5), (0.34, 1))),
    "Z": (((0, 0), (0.62, 0), (0, 1), (0.62, 1)),),
}

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Look:
    """How a code is written."""

    face: str = "sans"
    weight: int = 1
    """An index of `WEIGHTS`: thin, plain, bold."""
    stretch: float = 1.0
    """Width of the letters; 1 is as designed."""
    slant: float = 0.0
    """Shift to the right per height; negative leans back."""
    ink: Colour = (250, 250, 250)
    plate: Colour = (16, 16, 16)
    """What is behind the letters: a plate, or an outline where `has_plate` is off."""
    has_plate: bool = True


@dataclass(frozen=True, slots=True)
class Written:
    """A code at its size: two masks of one shape (height, width), 0…1."""

    ink: npt.NDArray[np.float32]
    cover: npt.NDArray[np.float32]
    """The plate or the outline, ink included."""
    look: Look
    letters_x: tuple[float, ...]
    """Middle of each letter at half height, in pixels from the left edge."""


def random_look(rng: np.random.Generator) -> Look:
    """Any look in which ink and plate differ clearly."""
    light = tuple(int(v) for v in rng.integers(205, 256, 3))
    dark = tuple(int(v) for v in rng.integers(0, 50, 3))
    ink, plate = (light, dark) if rng.uniform() < 0.65 else (dark, light)
    return Look(
        str(rng.choice(FACES)),
        int(rng.choice(len(WEIGHTS), p=[0.12, 0.44, 0.44])),
        float(rng.uniform(0.85, 1.15)),
        float(rng.choice([0.0, rng.uniform(-0.12, 0.25)])),
        (ink[0], ink[1], ink[2]),
        (plate[0], plate[1], plate[2]),
        bool(rng.uniform() < 0.65),
    )


def random_code(rng: np.random.Generator) -> str:
    return "".join(rng.choice(list(ALPHABET), CODE_LENGTH))


def near_code(rng: np.random.Generator, code: str) -> str:
    """The same code but for one letter: what makes a hard negative."""
    at = int(rng.integers(len(code)))
    others = [letter for letter in ALPHABET if letter != code[at]]
    return code[:at] + str(rng.choice(others)) + code[at + 1 :]


def write_code(text: str, look: Look, cap_px: float) -> Written:
    """`text` with letters `cap_px` high."""
    letters = [_letter(look.face, letter, look.weight) for letter in text]
    strip = Image.new("L", (sum(image.width for image in letters), letters[0].height))
    at, middles = 0, []
    for image in letters:
        strip.paste(image, (at, 0))
        middles.append(at + image.width / 2)
        at += image.width
    lean = look.slant * strip.height
    wide = strip.width * look.stretch + abs(lean)
    # Output (u, v) is read from strip x = (u − shift(v)) / stretch.
    matrix = (
        1 / look.stretch,
        look.slant / look.stretch,
        -(max(lean, 0.0)) / look.stretch,
        0,
        1,
        0,
    )
    bent = strip.transform(
        (round(wide), strip.height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    scale = cap_px / _CAP
    size = max(3, round(bent.width * scale)), max(3, round(bent.height * scale))
    small = bent.resize(size, Image.Resampling.BILINEAR)
    pad = max(1, round(cap_px * 0.08))
    framed = Image.new("L", (small.width + 2 * pad, small.height + 2 * pad))
    framed.paste(small, (pad, pad))
    ink = np.asarray(framed, dtype=np.float32) / np.float32(255)
    letters_x = tuple(pad + (abs(lean) / 2 + x * look.stretch) * scale for x in middles)
    if look.has_plate:
        return Written(ink, np.ones_like(ink), look, letters_x)
    outline = framed.filter(ImageFilter.MaxFilter(3 if cap_px < 40 else 5))
    return Written(ink, np.asarray(outline, dtype=np.float32) / np.float32(255), look, letters_x)


def blend(frame: npt.NDArray[np.float32], written: Written, x: float, y: float) -> None:
    """Write onto `frame` (height, width, 3), the middle at pixel (x, y); what is outside is cut."""
    tall, wide = written.ink.shape
    top, left = round(y - tall / 2), round(x - wide / 2)
    rows = slice(max(0, top), max(0, min(frame.shape[0], top + tall)))
    cols = slice(max(0, left), max(0, min(frame.shape[1], left + wide)))
    inner = (
        slice(rows.start - top, rows.stop - top),
        slice(cols.start - left, cols.stop - left),
    )
    cover, ink = written.cover[inner][..., None], written.ink[inner][..., None]
    plate = np.asarray(written.look.plate, dtype=np.float32)
    tint = np.asarray(written.look.ink, dtype=np.float32)
    under = frame[rows, cols] * (1 - cover) + plate * cover
    frame[rows, cols] = under * (1 - ink) + tint * ink


@cache
def _letter(face: str, letter: str, weight: int) -> Image.Image:
    """One letter of height `_CAP` with empty edges; its width is its own."""
    if face == "stroke":
        return _stroke_letter(letter, weight)
    glyph = _sans_letter(letter, weight) if face == "sans" else _pixel_letter(letter, weight)
    box = glyph.getbbox() or (0, 0, 1, 1)
    inked = glyph.crop(box)
    width = max(4, round(inked.width * _CAP / inked.height))
    if face == "pixel":
        width = round(0.62 * _CAP)
    return _framed(inked.resize((width, _CAP), Image.Resampling.BICUBIC))


def _sans_letter(letter: str, weight: int) -> Image.Image:
    glyph = Image.new("L", (160, 160))
    font = ImageFont.load_default(96)
    ImageDraw.Draw(glyph).text((24, 12), letter, fill=255, font=font, stroke_width=3 * weight)
    return glyph


def _pixel_letter(letter: str, weight: int) -> Image.Image:
    small = Image.new("L", (10, 14))
    font = ImageFont.load_default_imagefont()
    ImageDraw.Draw(small).text((1, 1), letter, fill=255, font=font)
    glyph = small.resize((80, 112), Image.Resampling.NEAREST)
    return glyph.filter(ImageFilter.MaxFilter(1 + 2 * weight)) if weight else glyph


def _stroke_letter(letter: str, weight: int) -> Image.Image:
    lines, pen_px = _STROKES[letter], 4 + 3 * weight
    reach = _CAP - pen_px
    width = max(x for line in lines for x, _ in line) * reach + pen_px
    glyph = Image.new("L", (round(width), _CAP))
    pen = ImageDraw.Draw(glyph)
    half = pen_px / 2
    for line in lines:
        places = [(half + x * reach, half + y * reach) for x, y in line]
        pen.line(places, fill=255, width=pen_px, joint="curve")
        for x, y in (places[0], places[-1]):
            pen.ellipse((x - half, y - half, x + half, y + half), fill=255)
    return _framed(glyph)


def _framed(inked: Image.Image) -> Image.Image:
    side = _EDGE // 2
    letter = Image.new("L", (inked.width + 2 * side, _CAP + 2 * _EDGE))
    letter.paste(inked, (side, _EDGE))
    return letter
