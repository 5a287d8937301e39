"""Scenes of known truth: coloured shapes and short codes that appear, move and vanish on busy
moving backgrounds.

One renderer for the sample media, the training of nano and the needle evaluation. Numpy and Pillow
only; a frame depends on nothing but the scene and the time, so any frame can be drawn alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pipeline.lettering import Look, blend, write_code

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 40, 42),
    "green": (36, 170, 70),
    "blue": (44, 88, 228),
    "yellow": (244, 214, 44),
    "purple": (152, 56, 190),
    "white": (244, 244, 244),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
BACKGROUNDS = ("gradient", "noise", "stripes", "clutter", "plasma")

Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Track:
    """One thing in a scene: what it is, when it shows, where and how it moves."""

    colour: str
    shape: str
    spans_s: tuple[tuple[float, float], ...]
    """Half-open times of visibility, in seconds, in order."""
    x: float
    y: float
    """Centre of its path, as fractions of width and height."""
    sway: float
    """How far it wanders from there, as a fraction of the frame height."""
    period_s: float
    """Time of one wander around."""
    size: float
    """Diameter as a fraction of the frame height."""

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    def is_visible(self, time_s: float) -> bool:
        return any(start <= time_s < end for start, end in self.spans_s)


@dataclass(frozen=True, slots=True)
class CodeTrack:
    """A code in a scene: what it says, how it is written, when it shows and where."""

    text: str
    look: Look
    spans_s: tuple[tuple[float, float], ...]
    """Half-open times of visibility, in seconds, in order."""
    x: float
    y: float
    sway: float
    period_s: float
    size: float
    """Height of its letters as a fraction of the frame height."""

    def is_visible(self, time_s: float) -> bool:
        return any(start <= time_s < end for start, end in self.spans_s)


@dataclass(frozen=True, slots=True)
class Scene:
    """A whole clip, drawable at any time."""

    seed: int
    width: int
    height: int
    duration_s: float
    background: str
    tracks: tuple[Track, ...]
    shake: float = 0.01
    """Camera shake as a fraction of the frame height."""
    codes: tuple[CodeTrack, ...] = ()
    """In front of everything else."""


def spans_of(scene: Scene, name: str) -> list[tuple[float, float]]:
    """When something named `colour shape` is visible, in seconds: overlapping spans joined."""
    spans = sorted(span for track in scene.tracks if track.name == name for span in track.spans_s)
    joined: list[tuple[float, float]] = []
    for start, end in spans:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def draw_frame(scene: Scene, time_s: float) -> Frame:
    """The scene at one moment: (height, width, 3), uint8."""
    return draw_over(_background(scene, time_s), scene, time_s)


def draw_over(under: Frame, scene: Scene, time_s: float) -> Frame:
    """The things and codes of a scene on a picture of its size instead of its background."""
    image = Image.fromarray(under)
    # Drawn at twice the size and reduced, for smooth edges.
    layer = Image.new("RGBA", (scene.width * 2, scene.height * 2), (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    visible = [track for track in scene.tracks if track.is_visible(time_s)]
    for track in visible:
        _draw_track(pen, scene, track, time_s)
    if visible:
        layer = layer.reduce(2)
        image.paste(layer, (0, 0), layer)
    codes = [code for code in scene.codes if code.is_visible(time_s)]
    if not codes:
        return np.asarray(image)
    frame = np.array(image, dtype=np.float32)
    for code in codes:
        x, y = centre_of(scene, code, time_s)
        written = write_code(code.text, code.look, code.size * scene.height)
        blend(frame, written, x * scene.width, y * scene.height)
    return np.asarray(np.clip(frame, 0, 255), dtype=np.uint8)


def centre_of(scene: Scene, track: Track | CodeTrack, time_s: float) -> tuple[float, float]:
    """Where a track is, as fractions of width and height."""
    angle = 2 * math.pi * time_s / track.period_s
    shake_x, shake_y = _shake(scene, time_s)
    x = track.x + (track.sway * math.cos(angle) + shake_x) * scene.height / scene.width
    return x, track.y + track.sway * math.sin(angle * 0.7) + shake_y


def _draw_track(pen: ImageDraw.ImageDraw, scene: Scene, track: Track, time_s: float) -> None:
    x, y = centre_of(scene, track, time_s)
    radius = track.size * scene.height
    place = (2 * x * scene.width, 2 * y * scene.height)
    _SHAPE_PENS[track.shape](pen, *place, radius, COLOURS[track.colour])


def _shake(scene: Scene, time_s: float) -> tuple[float, float]:
    phase = scene.seed % 97
    return (
        scene.shake * math.sin(7.3 * time_s + phase),
        scene.shake * math.sin(5.9 * time_s + 2 * phase),
    )


def _polygon(
    pen: ImageDraw.ImageDraw,
    corners: list[tuple[float, float]],
    centre: tuple[float, float],
    radius: float,
    fill: tuple[int, int, int],
) -> None:
    x, y = centre
    pen.polygon([(x + u * radius, y + v * radius) for u, v in corners], fill=(*fill, 255))


def _circle(
    pen: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: tuple[int, int, int]
) -> None:
    pen.ellipse((x - r, y - r, x + r, y + r), fill=(*fill, 255))


def _ring(
    pen: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: tuple[int, int, int]
) -> None:
    pen.ellipse((x - r, y - r, x + r, y + r), outline=(*fill, 255), width=max(3, round(r * 0.42)))


def _square(
    pen: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: tuple[int, int, int]
) -> None:
    _polygon(pen, [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)], (x, y), r, fill)


def _triangle(
    pen: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: tuple[int, int, int]
) -> None:
    _polygon(pen, [(0.0, -1.0), (1.0, 0.85), (-1.0, 0.85)], (x, y), r, fill)


def _star(
    pen: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: tuple[int, int, int]
) -> None:
    corners = []
    for k in range(10):
        reach = 1.1 if k % 2 == 0 else 0.44
        angle = math.pi * k / 5 - math.pi / 2
        corners.append((reach * math.cos(angle), reach * math.sin(angle)))
    _polygon(pen, corners, (x, y), r, fill)


def _cross(
    pen: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: tuple[int, int, int]
) -> None:
    thick = 0.34
    _polygon(pen, [(-1, -thick), (1, -thick), (1, thick), (-1, thick)], (x, y), r, fill)
    _polygon(pen, [(-thick, -1), (thick, -1), (thick, 1), (-thick, 1)], (x, y), r, fill)


_SHAPE_PENS = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
}


def _muted(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A dull colour, so that the background never passes for a thing."""
    grey = rng.uniform(45, 170)
    return np.asarray(np.clip(grey + rng.uniform(-28, 28, 3), 0, 255), dtype=np.float32)


def _background(scene: Scene, time_s: float) -> Frame:
    rng = np.random.default_rng(scene.seed)
    low, high = _muted(rng), _muted(rng)
    drift = rng.uniform(-0.03, 0.03, 2) * time_s + np.asarray(_shake(scene, time_s))
    y, x = np.mgrid[0 : scene.height, 0 : scene.width].astype(np.float32) / scene.height
    x, y = x + np.float32(drift[0]), y + np.float32(drift[1])
    weight = _PATTERNS[scene.background](x, y, time_s, rng)
    image = low + (high - low) * np.clip(weight, 0, 1)[..., None]
    if scene.background == "clutter":
        image = _clutter(image, scene, time_s, rng)
    # Grain differs from frame to frame but is the same whenever a frame is drawn again.
    grain = np.random.default_rng((scene.seed, round(time_s * 1000) & 0xFFFFFFFF))
    image = image + grain.normal(0, 5, (scene.height, scene.width, 1)).astype(np.float32)
    return np.asarray(np.clip(image, 0, 255), dtype=np.uint8)


_Plane = npt.NDArray[np.float32]


def _gradient(x: _Plane, y: _Plane, time_s: float, rng: np.random.Generator) -> _Plane:
    angle = rng.uniform(0, 6.28) + 0.02 * time_s
    return np.asarray(0.5 + 0.5 * np.sin(x * math.cos(angle) + y * math.sin(angle)))


def _noise(x: _Plane, y: _Plane, _time_s: float, rng: np.random.Generator) -> _Plane:
    cells = rng.uniform(0, 1, (17, 17)).astype(np.float32)
    rows = (y * 9).astype(int) % 17
    cols = (x * 9).astype(int) % 17
    return np.asarray(cells[rows, cols])


def _stripes(x: _Plane, y: _Plane, time_s: float, rng: np.random.Generator) -> _Plane:
    angle, pitch = rng.uniform(0, 3.14), rng.uniform(12, 40)
    return np.asarray(
        0.5 + 0.5 * np.sin(pitch * (x * math.cos(angle) + y * math.sin(angle)) + 0.3 * time_s)
    )


def _plasma(x: _Plane, y: _Plane, time_s: float, rng: np.random.Generator) -> _Plane:
    a, b, c = rng.uniform(3, 9, 3)
    return np.asarray(
        0.5 + 0.25 * (np.sin(a * x + 0.2 * time_s) + np.sin(b * y - 0.15 * time_s + c * x))
    )


def _plain(x: _Plane, _y: _Plane, _time_s: float, _rng: np.random.Generator) -> _Plane:
    return np.zeros_like(x)


_PATTERNS = {
    "plain": _plain,
    "gradient": _gradient,
    "noise": _noise,
    "stripes": _stripes,
    "clutter": _gradient,
    "plasma": _plasma,
}


def _clutter(
    image: npt.NDArray[np.float32], scene: Scene, time_s: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    canvas = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    for _ in range(14):
        x, y, w, h, speed = rng.uniform((0, 0, 0.03, 0.03, -0.02), (1, 1, 0.25, 0.25, 0.02))
        left = (x + speed * time_s) % 1.2 - 0.1
        box = (
            left * scene.width,
            y * scene.height,
            left * scene.width + w * scene.height,
            (y + h) * scene.height,
        )
        colour = tuple(int(v) for v in _muted(rng))
        if rng.uniform() < 0.6:
            pen.rectangle(box, fill=colour)
        else:
            pen.line(box, fill=colour, width=max(1, scene.height // 60))
    return np.asarray(canvas, dtype=np.float32)


CELLS = (
    (0.0, 0.0, 0.5, 0.5),
    (0.5, 0.0, 1.0, 0.5),
    (0.0, 0.5, 0.5, 1.0),
    (0.5, 0.5, 1.0, 1.0),
)
"""Quarters of the frame: things in different quarters hardly cover each other."""


def random_names(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Different (colour, shape) names; half share a colour or a shape with an earlier one."""
    names: list[tuple[str, str]] = []
    while len(names) < count:
        names.append(_random_name(rng, names))
    return names


def _random_name(rng: np.random.Generator, taken: list[tuple[str, str]]) -> tuple[str, str]:
    # Sharing one of the two is what makes a negative hard.
    while True:
        colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
        if taken and rng.uniform() < 0.5:
            other = taken[int(rng.integers(len(taken)))]
            colour, shape = (other[0], shape) if rng.uniform() < 0.5 else (colour, other[1])
        if (colour, shape) not in taken:
            return colour, shape
