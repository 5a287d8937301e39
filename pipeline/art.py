"""What a needle looks like: a code and a thing over the running picture, on a card, in a clip, or a
picture or clip that the user brings.

Promises the same pixels for the same frame and the same art, on any machine and in any order; all
arts are small, hashable and picklable, and what is costly about them is kept per process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image, ImageOps

from pipeline.footage import fit_size, letterbox, letterboxed_frames, pts_at_rate
from pipeline.lettering import random_look, write_code
from pipeline.probe import MAX_PIXELS, probe
from pipeline.scenes import (
    BACKGROUNDS,
    CELLS,
    CodeTrack,
    Scene,
    Track,
    draw_frame,
    draw_over,
)
from schemas.errors import InputError, InvariantError
from schemas.media import RgbArray, VideoSource

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Formats that may open: none that runs another program, as EPS would."""
_ALWAYS = ((0.0, math.inf),)
_TRIES_PER_SIZE, _SHRINK = 100, 0.85
_TRIES = 20 * _TRIES_PER_SIZE
"""Places that are tried for code and thing; after every hundred both are made a little smaller."""
_SWAY = 0.02
"""How far code and thing wander, as a fraction of the frame height."""
_AIR = 0.015
"""Empty space around them, as a fraction of the shorter side."""
_TRAVEL = (0.3, 0.6)
"""How far the thing of a clip travels, as fractions of the frame width."""
_STAR = 1.1
"""The star is the widest thing: its points lie this far out, in radii."""

_Motion = Literal["still", "sway", "travel"]


class Art(Protocol):
    """Anything that can be put into a video for some frames."""

    def paint(self, frame: RgbArray, k: int, n: int, fps: float, /) -> RgbArray:
        """Frame `k` of the `n` frames of the needle, over `frame` (height, width, 3), uint8.

        A new array; `frame` stays as it is.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Drawn:
    code: str
    thing: str
    """`colour shape`; empty: none."""
    seed: int
    letters_px: tuple[float, float]
    """Height of the letters, from–to, in pixels of the frame that is painted; smaller where the
    frame has no room for code and thing side by side."""
    things_px: tuple[float, float]
    """Diameter of the thing, likewise."""


@dataclass(frozen=True, slots=True)
class CodeArt(_Drawn):
    """A code, and the thing beside it, over the running picture; both wander a little."""

    def paint(self, frame: RgbArray, k: int, _n: int, fps: float) -> RgbArray:
        layout = _lay_out(self, *frame.shape[:2], "sway")
        return draw_over(frame, layout.scene, k / fps)


@dataclass(frozen=True, slots=True)
class CardArt(_Drawn):
    """A still picture that fills the frame: plain or a gradient, with the code and the thing."""

    def paint(self, frame: RgbArray, _k: int, _n: int, _fps: float) -> RgbArray:
        return _card(self, *frame.shape[:2]).copy()


@dataclass(frozen=True, slots=True)
class ClipArt(_Drawn):
    """A moving clip that fills the frame: the thing travels across while the code stays."""

    def paint(self, frame: RgbArray, k: int, n: int, fps: float) -> RgbArray:
        layout = _lay_out(self, *frame.shape[:2], "travel")
        done = k / max(1, n - 1)
        moved = tuple(
            replace(track, x=track.x + layout.travel * done) for track in layout.scene.tracks
        )
        return draw_frame(replace(layout.scene, tracks=moved), k / fps)


@dataclass(frozen=True, slots=True)
class PictureArt:
    """A user's picture, scaled to the frame with its aspect kept, black around it.

    `paint` raises InputError where the file cannot be read.
    """

    path: str

    def paint(self, frame: RgbArray, _k: int, _n: int, _fps: float) -> RgbArray:
        return _picture(self.path, *frame.shape[:2]).copy()


@dataclass(frozen=True, slots=True)
class FootageArt:
    """A user's clip at its own speed from its first frame, scaled as a picture is.

    Cut where it is longer than the needle; where it is shorter its last frame stays. `paint` raises
    InputError where it cannot be read. Costs the memory of the needle's frames.
    """

    path: str

    def paint(self, frame: RgbArray, k: int, n: int, fps: float) -> RgbArray:
        frames = _footage(self.path, *frame.shape[:2], n, fps)
        return np.array(frames[k])


@dataclass(frozen=True, slots=True)
class _Layout:
    scene: Scene
    travel: float
    """Where the thing ends, from where it starts, as a signed fraction of the width."""


@lru_cache(maxsize=64)
def _lay_out(art: _Drawn, height: int, width: int, motion: _Motion) -> _Layout:
    rng = np.random.default_rng((23, art.seed))
    backgrounds = ("plain", "gradient") if motion == "still" else BACKGROUNDS
    background = str(rng.choice(backgrounds))
    for number in range(_TRIES):
        scale = _SHRINK ** (number // _TRIES_PER_SIZE)
        code, half = _try_code(rng, art, width, height, motion, scale)
        thing, reach, travel = _try_thing(rng, art, width, height, motion, scale)
        boxes = [_Box(code.x * width, code.y * height, *half)]
        if thing is not None:
            middle = (thing.x + travel / 2) * width
            boxes.append(_Box(middle, thing.y * height, *reach))
        if all(box.is_inside(width, height) for box in boxes) and not boxes[0].meets(boxes[1:]):
            tracks = () if thing is None else (thing,)
            scene = Scene(art.seed, width, height, 1.0, background, tracks, 0.0, (code,))
            return _Layout(scene, travel)
    raise InvariantError(f"a frame of {width}x{height} has no room for a needle of any size.")


@dataclass(frozen=True, slots=True)
class _Box:
    """All that something may cover while it moves: middle and half sides in pixels."""

    x: float
    y: float
    half_width: float
    half_height: float

    def is_inside(self, width: int, height: int) -> bool:
        return (
            self.half_width <= self.x <= width - self.half_width
            and self.half_height <= self.y <= height - self.half_height
        )

    def meets(self, others: list[_Box]) -> bool:
        return any(
            abs(self.x - other.x) < self.half_width + other.half_width
            and abs(self.y - other.y) < self.half_height + other.half_height
            for other in others
        )


def _try_code(
    rng: np.random.Generator,
    art: _Drawn,
    width: int,
    height: int,
    motion: _Motion,
    scale: float,
) -> tuple[CodeTrack, tuple[float, float]]:
    """A code somewhere, and half of what it may cover (width, height) in pixels."""
    look, size_px = random_look(rng), float(rng.uniform(*art.letters_px)) * scale
    if motion == "travel":  # A clip's background is as busy as it likes.
        look = replace(look, has_plate=True)
    tall, wide = write_code(art.code, look, size_px).ink.shape
    room = _room(width, height, motion)
    half = wide / 2 + room, tall / 2 + room
    x, y = _place(rng, half, width, height)
    sway, period_s = _sway(rng, motion)
    code = CodeTrack(
        art.code, look, _ALWAYS, x / width, y / height, sway, period_s, size_px / height
    )
    return code, half


def _try_thing(
    rng: np.random.Generator,
    art: _Drawn,
    width: int,
    height: int,
    motion: _Motion,
    scale: float,
) -> tuple[Track | None, tuple[float, float], float]:
    """A thing somewhere, half of what it and its path may cover in pixels, and its travel."""
    if not art.thing:
        return None, (0.0, 0.0), 0.0
    colour, shape = art.thing.split()
    size_px = float(rng.uniform(*art.things_px)) * scale
    travel = float(rng.uniform(*_TRAVEL) * rng.choice((-1, 1))) if motion == "travel" else 0.0
    radius = _STAR * size_px / 2 + _room(width, height, motion)
    reach = radius + abs(travel) * width / 2, radius
    x, y = _place(rng, reach, width, height)
    sway, period_s = _sway(rng, motion)
    start = x / width - travel / 2
    return (
        Track(colour, shape, _ALWAYS, start, y / height, sway, period_s, size_px / height),
        reach,
        travel,
    )


def _room(width: int, height: int, motion: _Motion) -> float:
    return 1 + _AIR * min(width, height) + (_SWAY * height if motion == "sway" else 0.0)


def _sway(rng: np.random.Generator, motion: _Motion) -> tuple[float, float]:
    sway, period_s = float(rng.uniform(0, _SWAY)), float(rng.uniform(4, 20))
    return (sway if motion == "sway" else 0.0), period_s


def _place(
    rng: np.random.Generator, half: tuple[float, float], width: int, height: int
) -> tuple[float, float]:
    """A middle in a quarter of the frame, moved inwards as far as `half` needs it."""
    left, top, right, bottom = CELLS[int(rng.integers(len(CELLS)))]
    x, y = rng.uniform(left * width, right * width), rng.uniform(top * height, bottom * height)
    return (
        float(min(max(x, half[0]), width - half[0])),
        float(min(max(y, half[1]), height - half[1])),
    )


@lru_cache(maxsize=8)
def _card(art: CardArt, height: int, width: int) -> RgbArray:
    return draw_frame(_lay_out(art, height, width, "still").scene, 0.0)


@lru_cache(maxsize=8)
def _picture(path: str, height: int, width: int) -> RgbArray:
    """The picture in its frame: (height, width, 3), uint8."""
    accepted = "accepted are PNG, JPEG, WebP, BMP, GIF and TIFF"
    try:
        with Image.open(Path(path), formats=PICTURE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(
                    f"{path} is a picture of {image.width}x{image.height}; up to 8192x4320 is "
                    "read. Scale it down.",
                    reason="picture_too_large",
                )
            upright = _as_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path.", reason="missing_file") from None
    # Broken files leave Pillow in many ways.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise InputError(
            f"{path} is not a picture that can be read, or is damaged; {accepted}. Check that it "
            "opens, or convert it.",
            reason="not_picture",
        ) from None
    fitted = upright.resize(fit_size(upright.size, (width, height)), Image.Resampling.BICUBIC)
    return np.asarray(letterbox(np.asarray(fitted)[None], width, height)[0])


def _as_rgb(image: Image.Image) -> Image.Image:
    """8-bit colours; what is transparent is black, and deep greys are scaled by their brightest."""
    if image.mode[0] in "IF":
        values = np.asarray(image, dtype=np.float64)
        scaled = np.clip(values * (255 / max(255.0, float(values.max()))), 0, 255)
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if "A" in image.mode or "transparency" in image.info:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, (0, 0, 0, 255)), over).convert(
            "RGB"
        )
    return image.convert("RGB")


# Two: what is shown now and what comes next. Each holds all frames of a needle.
@lru_cache(maxsize=2)
def _footage(path: str, height: int, width: int, n: int, fps: float) -> RgbArray:
    """(n, height, width, 3), uint8."""
    index = probe(VideoSource(path, str(Path(path).absolute())))
    pts = pts_at_rate(index, Fraction(fps))[:n]
    once = list(letterboxed_frames(index, pts, width, height))
    return np.stack(once + once[-1:] * (n - len(once)))
