"""Lengths as they are asked for → patch pairs, seconds and frames of the haystack."""

from __future__ import annotations

from fractions import Fraction

from jobs.tools import load_facts
from pipeline.cast import Cast
from pipeline.grid import Cell, Grid, Pass, Rung
from pipeline.needle_pass import Look
from pipeline.plan import longest_question
from pipeline.questions import build_questions
from pipeline.quiz import quiz_of
from pipeline.sampling import MIN_PAIR_TOKENS, resize_grid
from schemas.errors import ConfigError
from schemas.job import ModelSpec
from schemas.needle import NeedleSpec
from schemas.ports import ModelFacts, PromptCounter
from schemas.time import TimeSpan, timestamp_text
from schemas.values import length_of

_LATEST_S = 99_999
_SPARE_TOKENS = 8
"""Another thing's name may be a token or two longer than the ones that were counted."""


def with_context(spec: NeedleSpec) -> ModelSpec:
    """The model with room for the longest length that is given in tokens."""
    counts = [int(count) for unit, count in map(length_of, spec.lengths) if unit == "tokens"]
    facts, _ = load_facts(spec.model)
    if spec.model.context is None and max(counts, default=0) > facts.context_tokens:
        return spec.model.model_copy(update={"context": max(counts)})
    return spec.model


def pair_grid(spec: NeedleSpec, token_px: int) -> tuple[int, int]:
    """Merged tokens of a patch pair of the haystack, (rows, columns), as sampling chooses them."""
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


def look_of(spec: NeedleSpec, facts: ModelFacts, counter: PromptCounter) -> Look:
    """How every length is looked at."""
    rows, cols = pair_grid(spec, facts.token_px)
    longest = counter.pair_tokens(timestamp_text(_LATEST_S), rows * cols)
    return Look(spec.model, spec.cluster, spec.look_fps, spec.pair_tokens, longest)


def grid_of(spec: NeedleSpec, facts: ModelFacts, counter: PromptCounter) -> Grid:
    """Lengths and depths. Raises ConfigError where a length holds nothing, or is too long."""
    look, question = look_of(spec, facts, counter), _longest_question(spec, counter)
    rows, cols = pair_grid(spec, facts.token_px)
    context = spec.model.context or facts.context_tokens
    rungs = []
    for label in spec.lengths:
        unit, count = length_of(label)
        if unit == "tokens":
            room = int(count) - counter.prefix_tokens() - question
            pairs = _pairs_in(room, spec, counter, rows * cols)
        else:
            pairs = int(count * (60 * spec.look_fps if unit == "minutes" else 1) / 2)
        _check(
            label, pairs, counter.prefix_tokens() + pairs * look.longest_pair + question, context
        )
        clip_s = 2 * pairs / spec.look_fps
        rungs.append(Rung(label, pairs, clip_s, int(clip_s * spec.haystack.fps)))
    rungs.sort(key=lambda rung: rung.num_pairs)
    frames = max(1, round(spec.show_s * spec.haystack.fps))
    return Grid(tuple(rungs), spec.depth_list, frames, spec.depth_tolerance)


def _check(label: str, pairs: int, tokens: int, context: int) -> None:
    if pairs < 1:
        raise ConfigError(f"a length of {label} holds no patch pair beside a question; raise it.")
    # A length in tokens is exact; the bound here takes every time for the longest.
    if label.endswith(("frames", "min", "minutes")) and tokens > context:
        raise ConfigError(
            f"a length of {label} is up to {tokens} tokens and the context holds {context}; lower "
            f"it, or set model.context to {tokens}."
        )


def _pairs_in(room: int, spec: NeedleSpec, counter: PromptCounter, visual: int) -> int:
    """Patch pairs that so many tokens hold."""
    pairs, step = 0, 2 / spec.look_fps
    while True:
        # The time of a pair is the middle of its two frames.
        room -= counter.pair_tokens(timestamp_text(pairs * step + step / 4), visual)
        if room < 0:
            return pairs
        pairs += 1


def _longest_question(spec: NeedleSpec, counter: PromptCounter) -> int:
    """Tokens of the longest question that may be asked, with its answer."""
    kinds = tuple(range(len(spec.needles)))
    cells = tuple(Cell(0, 0.0, number) for number in kinds)
    one = Pass(0, (0,) * len(kinds), kinds, (0,), cells)
    cast = Cast.draw(spec.seed, 0, spec.haystack.distractors)
    queries = [asked.query for asked in quiz_of(spec, cast, one, ())]
    span = TimeSpan(_LATEST_S - 1, _LATEST_S, Fraction(1))
    return longest_question(counter, build_questions(queries, span)) + _SPARE_TOKENS
