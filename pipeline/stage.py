"""What a haystack's file is made of, and the file itself: encoded once, found again by its name.

The name is a digest of everything that decides its pixels, so evaluations of several models share
one file, and other settings make another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.art import Art
from pipeline.haystack import (
    HaystackForm,
    drawn_frames,
    footage_frames,
    overlay,
    write_haystack,
)
from pipeline.scenes import Scene
from pipeline.splice import Insertion, Spliced, splice
from schemas.media import RgbArray, VideoSource

_RECIPE = "1"
"""Goes up when the same recipe would give other pixels."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a haystack's pixels."""

    form: HaystackForm
    num_frames: int
    scene: Scene | None
    """What is drawn; None: footage."""
    footage: tuple[VideoSource, ...] = ()
    digests: tuple[str, ...] = ()
    """SHA-256 of each file of the footage."""
    loop: bool = False
    extras: tuple[tuple[int, int, Art], ...] = ()
    """(first frame, frames, what): distractors."""

    @property
    def name(self) -> str:
        """Names the pixels, hex."""
        drawn = repr((self.form, self.num_frames, self.scene, self.digests, self.loop, self.extras))
        return hashlib.sha256(f"{_RECIPE}{drawn}".encode()).hexdigest()

    def path(self, folder: Path) -> Path:
        return folder / f"{self.name[:32]}.mp4"


def build(work: tuple[Recipe, Path]) -> Path:
    """The haystack's file in a folder, encoded if it is not there. Raises InputError where the
    footage is too short or cannot be decoded."""
    recipe, folder = work
    path = recipe.path(folder)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        frames = overlay(_frames(recipe), recipe.extras, recipe.form.fps)
        write_haystack(path, recipe.form, frames, recipe.num_frames, lambda _number: None)
    return path


def _frames(recipe: Recipe) -> Iterator[RgbArray]:
    if recipe.scene is not None:
        return drawn_frames(recipe.scene, recipe.form, recipe.num_frames)
    return footage_frames(recipe.footage, recipe.form, recipe.num_frames, loop=recipe.loop)


def hide(work: tuple[Path, Path, tuple[Insertion, ...], HaystackForm]) -> Spliced:
    """`splice` as one piece of work, in whichever process it lands."""
    return splice(*work)
