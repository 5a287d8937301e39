"""What is drawn where: the haystacks' recipes and the needles' pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.manifest import find_videos
from jobs.needle.lengths import pair_grid
from pipeline.art import Art, CardArt, ClipArt, CodeArt, FootageArt, PictureArt
from pipeline.cast import Cast
from pipeline.grid import Grid, Pass
from pipeline.haystack import HaystackForm
from pipeline.needles import draw_scene
from pipeline.probe import digest_file
from pipeline.splice import Insertion
from pipeline.stage import Recipe
from schemas.job import JobSpec, QuerySpec, VideoSpec
from schemas.media import VideoSource
from schemas.needle import NeedleSpec, OwnNeedle
from schemas.ports import ModelFacts

LETTERS_PX, THINGS_PX = (20.0, 27.0), (26.0, 36.0)
"""Sizes of what is drawn, in pixels of the frames that the model sees, from–to."""
_REACH = 40
"""How many needles' lengths a distractor may move to be clear of needles."""


@dataclass(frozen=True, slots=True)
class Props:
    """The user's own files, found and named by their bytes, and the scale of what is drawn."""

    footage: tuple[VideoSource, ...]
    digests: tuple[str, ...]
    needle_digests: tuple[str, ...]
    """By needle; empty for drawn ones."""
    scale: float
    """Pixels of the haystack per pixel that the model sees."""
    base: Path

    @staticmethod
    def of(spec: NeedleSpec, facts: ModelFacts, base: Path) -> Props:
        """Find the files. Raises ConfigError or InputError, one sentence each."""
        footage = _footage(spec, base)
        rows, _ = pair_grid(spec, facts.token_px)
        return Props(
            footage,
            tuple(digest_file(source) for source in footage),
            tuple(_digest(needle, base) for needle in spec.needles),
            spec.haystack.height / (rows * facts.token_px),
            base,
        )

    @property
    def letters(self) -> tuple[float, float]:
        return LETTERS_PX[0] * self.scale, LETTERS_PX[1] * self.scale

    @property
    def things(self) -> tuple[float, float]:
        return THINGS_PX[0] * self.scale, THINGS_PX[1] * self.scale


def _footage(spec: NeedleSpec, base: Path) -> tuple[VideoSource, ...]:
    if not spec.haystack.videos:
        return ()
    videos = [VideoSpec(uri=uri) for uri in spec.haystack.videos]
    job = JobSpec(videos=videos, queries=[QuerySpec(id="any", ask="any")])
    return tuple(wanted.source for wanted in find_videos(job, base))


def _path(needle: OwnNeedle, base: Path) -> str:
    return str((base / str(needle.image or needle.clip)).absolute())


def _digest(needle: str | OwnNeedle, base: Path) -> str:
    if isinstance(needle, str):
        return ""
    return digest_file(VideoSource(str(needle.image or needle.clip), _path(needle, base)))


def recipe_of(
    spec: NeedleSpec, grid: Grid, cast: Cast, passes: Sequence[Pass], props: Props
) -> Recipe:
    """A haystack in which nothing else happens where needles may lie."""
    form = HaystackForm(spec.haystack.width, spec.haystack.height, spec.haystack.fps)
    num_frames = max(rung.num_frames for rung in grid.rungs)
    length = grid.needle_frames
    starts = sorted({start for one in passes for start in one.starts})
    places = free_places(len(cast.distractors), num_frames, starts, length)
    extras = tuple(
        (place, length, _drawn("code", code, "", _seed(cast, place, code), props))
        for code, place in zip(cast.distractors, places, strict=False)
    )
    if props.footage:
        loop = spec.haystack.loop
        return Recipe(form, num_frames, None, props.footage, props.digests, loop, extras)
    scene = draw_scene(
        (cast.seed, cast.haystack),
        (form.width, form.height),
        num_frames / form.fps,
        cast.others,
        [(at / form.fps, (at + length) / form.fps) for at in (*starts, *places)],
        (props.things[0] / form.height, props.things[1] / form.height),
    )
    return Recipe(form, num_frames, scene, extras=extras)


def free_places(count: int, num_frames: int, starts: Sequence[int], length: int) -> list[int]:
    """First frames of distractors, spread evenly, each clear of needles and of one another; fewer
    where there is no room."""
    places: list[int] = []
    for number in range(count):
        wanted, reach = round((number + 0.5) * num_frames / count), _REACH * length
        first, stop = max(0, wanted - reach), min(num_frames - length, wanted + reach)
        free = [
            at
            for at in range(first, stop)
            if all(abs(at - start) >= 2 * length for start in (*starts, *places))
        ]
        if free:
            places.append(min(free, key=lambda at: abs(at - wanted)))
    return places


def insertions_of(
    spec: NeedleSpec, grid: Grid, cast: Cast, own: Pass, props: Props
) -> tuple[Insertion, ...]:
    """What a pass hides in its haystack."""
    made = []
    for start, kind, role in zip(own.starts, own.kinds, cast.roles(own), strict=True):
        needle = spec.needles[kind]
        if isinstance(needle, str):
            seed = _seed(cast, start, role.code)
            art: Art = _drawn(needle, role.code, role.thing, seed, props)
        elif needle.image is not None:
            art = PictureArt(_path(needle, props.base))
        else:
            art = FootageArt(_path(needle, props.base))
        made.append(Insertion(start, grid.needle_frames, art))
    return tuple(made)


def _drawn(kind: str, code: str, thing: str, seed: int, props: Props) -> Art:
    kinds: dict[str, Callable[..., Art]] = {"code": CodeArt, "image": CardArt, "clip": ClipArt}
    return kinds[kind](code, thing, seed, props.letters, props.things)


def _seed(cast: Cast, start: int, code: str) -> int:
    name = hashlib.sha256(f"{cast.seed}/{cast.haystack}/{start}/{code}".encode()).digest()
    return int.from_bytes(name[:4], "little")
