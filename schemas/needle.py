"""The needle evaluation's file: lengths × depths × needles × repeats, and where they are hidden.

One schema for presets, the user's own file and the command line. Unknown keys are refused with the
nearest known one.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from schemas.job import BY_NAME, WHOLE, ClusterSpec, ModelSpec, Strict, form_of, read_as
from schemas.values import Length, Name

DRAWN = ("code", "image", "clip")
"""Needles that are drawn: a code over the running video, a still card, a short moving clip."""


class OwnNeedle(Strict):
    """A picture or a short clip of the user's own, and what is asked of it."""

    name: Name
    image: str | None = None
    clip: str | None = None
    ask: str = Field(min_length=1, max_length=2000)
    """The question *what*, as one would ask it of the video."""
    answer: str = Field(min_length=1, max_length=200)
    when: str = Field("", max_length=2000)
    """What is looked for, in words, for the question *when*; empty: it is not asked."""

    @model_validator(mode="after")
    def _one_source(self) -> OwnNeedle:
        if (self.image is None) == (self.clip is None):
            raise ValueError(f"needle {self.name!r} has either an `image` or a `clip`")
        if self.name in DRAWN:
            raise ValueError(f"needle {self.name!r} has the name of a drawn one; name it otherwise")
        return self


NeedleChoice = Annotated[
    Annotated[Literal["code", "image", "clip"], Tag(BY_NAME)] | Annotated[OwnNeedle, Tag(WHOLE)],
    Discriminator(form_of),
]
"""A drawn needle by its name, or one of the user's own."""


class HaystackSpec(Strict):
    """What needles are hidden in: drawn by us, or the user's own videos one after the other."""

    videos: tuple[str, ...] = ()
    """Files, folders or patterns, taken in order; none: a scene is drawn."""
    loop: bool = False
    """Begin again with the first video where all together are too short."""
    fps: int = Field(8, ge=1, le=60)
    """Frames per second of the haystack's file."""
    width: int = Field(256, ge=64, le=3840, multiple_of=2)
    height: int = Field(192, ge=64, le=2160, multiple_of=2)
    distractors: int = Field(4, ge=0, le=200)
    """Codes in each haystack that differ from the needles' in one letter."""


class NeedleSpec(Strict):
    """A whole evaluation."""

    name: Name = "needle"
    model: ModelSpec = ModelSpec()
    lengths: tuple[Length, ...] = ("4k", "8k")
    """Of everything that the model gets: tokens, or the frames or minutes of video in it."""
    depths: int | tuple[float, ...] = 11
    """How many, evenly from 0 to 1; or which."""
    depth_tolerance: float = Field(0.04, ge=0, le=0.05)
    """How far from its cell a needle may lie so that several lengths share a haystack."""
    needles: tuple[NeedleChoice, ...] = ("code",)
    in_turn: bool = False
    """Hide one kind of needle at each place, the next kind at the next, instead of all of them."""
    together: bool = False
    """Hide the needles of all depths in one haystack, each a distractor to the others."""
    repeats: int = Field(1, ge=1, le=1000)
    """Haystacks, each with needles of its own."""
    show_s: float = Field(1.0, gt=0, le=600)
    """How long a needle shows."""
    fps: float | None = Field(None, gt=0, le=60)
    """Frames per second to look at; None: the haystack's."""
    pair_tokens: int = Field(12, ge=4)
    """Most visual tokens per patch pair."""
    when_as: Literal["time", "span"] = "time"
    """Ask *when* for one time, or for all spans."""
    controls: bool | Literal["beside"] = True
    """`beside`: those that are asked beside needles, without a pass over the bare haystack."""
    seed: int = Field(0, ge=0)
    haystack: HaystackSpec = HaystackSpec()
    cluster: ClusterSpec = ClusterSpec()
    output: str = Field("out/needle", min_length=1)

    @model_validator(mode="after")
    def _sound(self) -> NeedleSpec:
        for name in ("lengths", "needles"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; name one at least, or leave it out")
        if isinstance(self.depths, int):
            if not 1 <= self.depths <= 101:
                raise ValueError(f"{self.depths} depths were asked for; write 1 to 101, or a list")
        elif not self.depths or any(not 0 <= depth <= 1 for depth in self.depths):
            raise ValueError("depths are shares of the video, 0 to 1, one at least")
        if twice := {length for length in self.lengths if self.lengths.count(length) > 1}:
            raise ValueError(f"length {min(twice)!r} is given twice")
        names = [needle if isinstance(needle, str) else needle.name for needle in self.needles]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"needle {min(twice)!r} is given twice")
        if self.look_fps > self.haystack.fps:
            raise ValueError(
                f"fps {float(self.look_fps):g} is more than the haystack has "
                f"({self.haystack.fps}); raise haystack.fps"
            )
        return self

    @property
    def look_fps(self) -> Fraction:
        return Fraction(self.haystack.fps) if self.fps is None else Fraction(str(self.fps))

    @property
    def depth_list(self) -> tuple[float, ...]:
        """Depths in order, each once."""
        if isinstance(self.depths, int):
            last = max(1, self.depths - 1)
            return tuple(number / last for number in range(self.depths))
        return tuple(sorted(set(self.depths)))


def read_needle(data: object, *, where: str) -> NeedleSpec:
    """Validate an evaluation. Raises ConfigError: one sentence per mistake."""
    return read_as(NeedleSpec, {} if data is None else data, where)
