"""An evaluation's file → everything that is known before anything is read: grid, casts, passes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from pipeline.art import Art, CardArt, ClipArt, CodeArt, FootageArt, PictureArt
from pipeline.haystack import HaystackForm
from pipeline.splice import Insertion

from jobs.manifest import answer_key, find_videos
from jobs.tools import load_facts
from pipeline.cast import Cast, Role
from pipeline.grid import Cell, Grid, Pass, Rung, passes_of
from pipeline.needle_pass import Look, PassWork
from pipeline.needles import draw_scene
from pipeline.plan import longest_question
from pipeline.probe import digest_file
from pipeline.questions import build_questions
from pipeline.quiz import Asked, quiz_of
from pipeline.sampling import MIN_PAIR_TOKENS, resize_grid
from pipeline.stage import Recipe
from schemas.errors import ConfigError
from schemas.events import SCHEMA_VERSION
from schemas.job import JobSpec, ModelSpec, QuerySpec
from schemas.media import VideoSource
from schemas.needle import NeedleSpec, OwnNeedle
from schemas.ports import ModelFacts, PromptCounter
from schemas.time import TimeSpan, timestamp_text
from schemas.values import length_of

LETTERS_PX, THINGS_PX = (20.0, 27.0), (26.0, 36.0)
"""Sizes of what is drawn, in pixels of the frames that the model sees, from–to."""
_LATEST_S = 99_999


@dataclass(frozen=True, slots=True)
class Prepared:
    """An evaluation before it starts."""

    spec: NeedleSpec
    facts: ModelFacts
    counter: PromptCounter
    grid: Grid
    recipes: tuple[Recipe, ...]
    """One per haystack."""
    works: tuple[PassWork, ...]
    """All passes in the order in which they share most."""
    naive_tokens: int
    """What would be prefilled if each pass read each of its lengths from the beginning."""


def prepare(spec: NeedleSpec, folder: Path, base: Path | None = None) -> Prepared:
    """Plan an evaluation whose haystacks are kept in `folder`. Raises ConfigError, ResourceError or
    InputError (footage)."""
    spec = spec.model_copy(update={"model": _with_context(spec)})
    facts, counter = load_facts(spec.model)
    look, grid = _look_and_grid(spec, facts, counter)
    footage = _footage(spec, base or Path.cwd())
    recipes, works = [], []
    for number in range(spec.repeats):
        cast = Cast.draw(spec.seed, number, spec.haystack.distractors)
        passes = passes_of(
            grid, number, len(spec.needles), together=spec.together, bare=spec.controls
        )
        recipe = _recipe(spec, grid, cast, passes, footage, _scale(spec, facts))
        recipes.append(recipe)
        works += [
            _work(spec, facts, grid, look, recipe, cast, one, passes, folder) for one in passes
        ]
    per_rung = {i: rung.num_pairs * look.longest_pair for i, rung in enumerate(grid.rungs)}
    naive = sum(per_rung[rung] for work in works for rung in work.own.rungs)
    return Prepared(spec, facts, counter, grid, tuple(recipes), tuple(works), naive)


def _with_context(spec: NeedleSpec) -> ModelSpec:
    """The model with room for the longest length that is given in tokens."""
    counts = [int(count) for unit, count in map(length_of, spec.lengths) if unit == "tokens"]
    facts, _ = load_facts(spec.model)
    if spec.model.context is None and max(counts, default=0) > facts.context_tokens:
        return spec.model.model_copy(update={"context": max(counts)})
    return spec.model


def grid_tokens(spec: NeedleSpec, token_px: int) -> tuple[int, int]:
    """Merged tokens of a patch pair of the haystack: (rows, columns), as sampling chooses them."""
    area = 2 * token_px * token_px
    height, width = resize_grid(
        2,
        spec.haystack.height,
        spec.haystack.width,
        token_px=token_px,
        min_volume=MIN_PAIR_TOKENS * area,
        max_volume=spec.pair_tokens * area,
    )
    return height // token_px, width // token_px


def _scale(spec: NeedleSpec, facts: ModelFacts) -> float:
    """Pixels of the haystack per pixel that the model sees."""
    rows, _ = grid_tokens(spec, facts.token_px)
    return spec.haystack.height / (rows * facts.token_px)


def _look_and_grid(
    spec: NeedleSpec, facts: ModelFacts, counter: PromptCounter
) -> tuple[Look, Grid]:
    rows, cols = grid_tokens(spec, facts.token_px)
    visual = rows * cols
    longest_pair = counter.pair_tokens(timestamp_text(_LATEST_S), visual)
    look = Look(spec.model, spec.cluster, spec.look_fps, spec.pair_tokens, longest_pair)
    question = _longest_question(spec, counter)
    context = spec.model.context or facts.context_tokens
    rungs = []
    for label in spec.lengths:
        unit, count = length_of(label)
        pairs = _pairs(spec, counter, visual, unit, count, question)
        tokens = counter.prefix_tokens() + pairs * longest_pair + question
        if unit != "tokens" and tokens > context:
            raise ConfigError(
                f"a length of {label} is up to {tokens} tokens and the context holds {context}; "
                f"lower it, or set model.context to {tokens}."
            )
        if pairs < 1:
            raise ConfigError(
                f"a length of {label} holds no patch pair beside a question of {question} tokens; "
                "raise it."
            )
        rungs.append(_rung(spec, label, pairs))
    rungs.sort(key=lambda rung: rung.num_pairs)
    frames = max(1, round(spec.show_s * spec.haystack.fps))
    return look, Grid(tuple(rungs), spec.depth_list, frames, spec.depth_tolerance)


def _rung(spec: NeedleSpec, label: str, pairs: int) -> Rung:
    clip_s = 2 * pairs / spec.look_fps
    return Rung(label, pairs, clip_s, int(clip_s * spec.haystack.fps))


def _pairs(
    spec: NeedleSpec,
    counter: PromptCounter,
    visual: int,
    unit: str,
    count: Fraction,
    question: int,
) -> int:
    """Patch pairs of one length."""
    if unit == "frames":
        return int(count) // 2
    if unit == "minutes":
        return int(count * 60 * spec.look_fps / 2)
    room = int(count) - counter.prefix_tokens() - question
    pairs, step = 0, 2 / spec.look_fps
    while True:
        # The time of a pair is the middle of its two frames.
        room -= counter.pair_tokens(timestamp_text(pairs * step + step / 4), visual)
        if room < 0:
            return pairs
        pairs += 1


def _longest_question(spec: NeedleSpec, counter: PromptCounter) -> int:
    """Tokens of the longest question that may be asked, with its answer."""
    one = Pass(0, (0,) * len(spec.needles), tuple(range(len(spec.needles))), (0,), ())
    drawn = Cast.draw(spec.seed, 0, spec.haystack.distractors)
    queries = [asked.query for asked in quiz_of(spec, drawn, with_cells(one), ())]
    span = TimeSpan(_LATEST_S - 1, _LATEST_S, Fraction(1))
    # Another thing's name may be a token or two longer.
    return longest_question(counter, build_questions(queries, span)) + 8


def with_cells(one: Pass) -> Pass:
    """A pass with a cell for each of its needles."""
    cells = tuple(Cell(0, 0.0, number) for number in range(len(one.starts)))
    return Pass(one.haystack, one.starts, one.kinds, one.rungs, cells)


def _footage(spec: NeedleSpec, base: Path) -> tuple[tuple[VideoSource, ...], tuple[str, ...]]:
    """The user's own files with their digests."""
    if not spec.haystack.videos:
        return (), ()
    query = QuerySpec(id="any", ask="any")
    job = JobSpec(videos=[{"uri": uri} for uri in spec.haystack.videos], queries=[query])  # type: ignore[list-item]
    sources = tuple(wanted.source for wanted in find_videos(job, base))
    return sources, tuple(digest_file(source) for source in sources)


def _recipe(
    spec: NeedleSpec,
    grid: Grid,
    cast: Cast,
    passes: Sequence[Pass],
    footage: tuple[tuple[VideoSource, ...], tuple[str, ...]],
    scale: float,
) -> Recipe:
    form = HaystackForm(spec.haystack.width, spec.haystack.height, spec.haystack.fps)
    num_frames = max(rung.num_frames for rung in grid.rungs)
    starts = sorted({start for one in passes for start in one.starts})
    places = _free_places(len(cast.distractors), num_frames, starts, grid.needle_frames)
    extras = tuple(
        (place, grid.needle_frames, _code_art(code, "", cast, place, scale))
        for code, place in zip(cast.distractors, places, strict=False)
    )
    sources, digests = footage
    if sources:
        return Recipe(form, num_frames, None, sources, digests, spec.haystack.loop, extras)
    length = grid.needle_frames
    busy = [(at / form.fps, (at + length) / form.fps) for at in (*starts, *places)]
    scene = draw_scene(
        (cast.seed, cast.haystack),
        (form.width, form.height),
        num_frames / form.fps,
        cast.others,
        busy,
        (THINGS_PX[0] * scale / form.height, THINGS_PX[1] * scale / form.height),
    )
    return Recipe(form, num_frames, scene, extras=extras)


def _free_places(count: int, num_frames: int, starts: Sequence[int], length: int) -> list[int]:
    """First frames of distractors, spread evenly, none within a needle's length of a needle."""
    places = []
    for number in range(count):
        wanted = round((number + 0.5) * num_frames / count)
        free = [
            at
            for at in range(
                max(0, wanted - 40 * length), min(num_frames - length, wanted + 40 * length)
            )
            if all(abs(at - start) >= 2 * length for start in (*starts, *places))
        ]
        if free:
            places.append(min(free, key=lambda at: abs(at - wanted)))
    return places


def _code_art(code: str, thing: str, cast: Cast, seed: int, scale: float) -> CodeArt:
    letters, things = _sizes(scale)
    return CodeArt(code, thing, _art_seed(cast, seed, code), letters, things)


def _sizes(scale: float) -> tuple[tuple[float, float], tuple[float, float]]:
    return (
        (LETTERS_PX[0] * scale, LETTERS_PX[1] * scale),
        (THINGS_PX[0] * scale, THINGS_PX[1] * scale),
    )


def _art_seed(cast: Cast, start: int, code: str) -> int:
    name = hashlib.sha256(f"{cast.seed}/{cast.haystack}/{start}/{code}".encode()).digest()
    return int.from_bytes(name[:4], "little")


def _art(kind: str | OwnNeedle, role: Role, cast: Cast, start: int, scale: float) -> Art:
    if isinstance(kind, OwnNeedle):
        return PictureArt(kind.image) if kind.image else FootageArt(str(kind.clip))
    letters, things = _sizes(scale)
    made = {"code": CodeArt, "image": CardArt, "clip": ClipArt}[kind]
    art: Art = made(role.code, role.thing, _art_seed(cast, start, role.code), letters, things)
    return art


def _work(
    spec: NeedleSpec,
    facts: ModelFacts,
    grid: Grid,
    look: Look,
    recipe: Recipe,
    cast: Cast,
    own: Pass,
    passes: Sequence[Pass],
    folder: Path,
) -> PassWork:
    roles = cast.roles(own)
    scale = _scale(spec, facts)
    insertions = tuple(
        Insertion(start, grid.needle_frames, _art(spec.needles[kind], role, cast, start, scale))
        for start, kind, role in zip(own.starts, own.kinds, roles, strict=True)
    )
    asked = quiz_of(spec, cast, own, passes)
    return PassWork(
        key=_key(facts, look, recipe, own, grid, insertions, asked),
        place=f"needle/{own.name}",
        uri=f"haystack {own.haystack}" + (f", needle at {own.starts[0]}" if own.starts else ""),
        own=own,
        grid=grid,
        look=look,
        form=recipe.form,
        haystack=recipe.path(folder),
        haystack_name=recipe.name,
        insertions=insertions,
        asked=asked,
    )


def _key(
    facts: ModelFacts,
    look: Look,
    recipe: Recipe,
    own: Pass,
    grid: Grid,
    insertions: Sequence[Insertion],
    asked: Sequence[Asked],
) -> str:
    """Names everything that decides a pass's rows, hex."""
    text = json.dumps(
        {
            "haystack": recipe.name,
            "needles": [repr(insertion) for insertion in insertions],
            "lengths": [repr(grid.rungs[rung]) for rung in own.rungs],
            "asked": [repr(one) for one in asked],
            "model": look.model.model_dump(mode="json", exclude={"name"}),
            "model_digest": facts.digest,
            "look": [str(look.fps), look.pair_tokens],
            "schema": SCHEMA_VERSION,
        },
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()


def answer_keys(work: PassWork) -> dict[str, str]:
    """What names each answer of a pass by content, by query id."""
    return {one.query.id: answer_key(work.key, one.query) for one in work.asked}
