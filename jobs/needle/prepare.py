"""An evaluation's file → everything that is known before anything is read: passes, named."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from jobs.manifest import answer_key
from jobs.needle.lengths import grid_of, look_of, with_context
from jobs.needle.props import Props, insertions_of, recipe_of
from jobs.tools import load_facts
from pipeline.cast import Cast
from pipeline.grid import Grid, Pass, passes_of
from pipeline.needle_pass import Look, PassWork
from pipeline.quiz import quiz_of
from pipeline.stage import Recipe
from schemas.events import SCHEMA_VERSION
from schemas.needle import NeedleSpec
from schemas.ports import ModelFacts


@dataclass(frozen=True, slots=True)
class Prepared:
    """An evaluation before it starts."""

    spec: NeedleSpec
    facts: ModelFacts
    grid: Grid
    recipes: tuple[Recipe, ...]
    """One per haystack."""
    works: tuple[PassWork, ...]
    """All passes in the order in which they share most."""
    naive_tokens: int
    """What would be prefilled if each pass read each of its lengths from the beginning; each pair
    is taken for the longest."""


@dataclass(frozen=True, slots=True)
class _Common:
    """What all passes of an evaluation share."""

    spec: NeedleSpec
    facts: ModelFacts
    grid: Grid
    look: Look
    props: Props
    folder: Path


def prepare(spec: NeedleSpec, folder: Path, base: Path) -> Prepared:
    """Plan an evaluation whose haystacks are kept in `folder`; relative paths start at `base`.

    Raises ConfigError, ResourceError or InputError (footage that cannot be read).
    """
    spec = spec.model_copy(update={"model": with_context(spec)})
    facts, counter = load_facts(spec.model)
    grid, look = grid_of(spec, facts, counter), look_of(spec, facts, counter)
    common = _Common(spec, facts, grid, look, Props.of(spec, facts, base), folder)
    recipes: list[Recipe] = []
    works: list[PassWork] = []
    for number in range(spec.repeats):
        recipe, own = _haystack(common, number)
        recipes.append(recipe)
        works += own
    pairs = sum(grid.rungs[rung].num_pairs for work in works for rung in work.own.rungs)
    naive = pairs * look.longest_pair
    return Prepared(spec, facts, grid, tuple(recipes), tuple(works), naive)


def _haystack(common: _Common, number: int) -> tuple[Recipe, list[PassWork]]:
    """One haystack and the passes over it."""
    spec, grid = common.spec, common.grid
    cast = Cast.draw(spec.seed, number, spec.haystack.distractors)
    passes = passes_of(
        grid,
        number,
        len(spec.needles),
        together=spec.together,
        bare=spec.controls is True,
        in_turn=spec.in_turn,
    )
    recipe = recipe_of(spec, grid, cast, passes, common.props)
    return recipe, [_work(common, recipe, cast, own, passes) for own in passes]


def _work(
    common: _Common, recipe: Recipe, cast: Cast, own: Pass, passes: tuple[Pass, ...]
) -> PassWork:
    spec, grid = common.spec, common.grid
    where = f", needle at frame {own.starts[0]}" if len(own.starts) == 1 else ""
    work = PassWork(
        key="",
        place=f"needle/{own.name}",
        uri=f"haystack {own.haystack}{where}",
        own=own,
        grid=grid,
        look=common.look,
        form=recipe.form,
        haystack=recipe.path(common.folder),
        haystack_name=recipe.name,
        insertions=insertions_of(spec, grid, cast, own, common.props),
        asked=quiz_of(spec, cast, own, passes),
    )
    return work.named(_key(common, work))


def _key(common: _Common, work: PassWork) -> str:
    """Names everything that decides a pass's rows, hex."""
    text = json.dumps(
        {
            "haystack": work.haystack_name,
            "needles": [repr(insertion) for insertion in work.insertions],
            "needle_bytes": [common.props.needle_digests[kind] for kind in work.own.kinds],
            "lengths": [repr(common.grid.rungs[rung]) for rung in work.own.rungs],
            "asked": [repr(one) for one in work.asked],
            "model": common.spec.model.model_dump(mode="json", exclude={"name"}),
            "model_digest": common.facts.digest,
            "look": [str(common.look.fps), common.look.pair_tokens],
            "schema": SCHEMA_VERSION,
        },
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()


def answer_keys(work: PassWork) -> dict[str, str]:
    """What names each answer of a pass by content, by query id."""
    return {one.query.id: answer_key(work.key, one.query) for one in work.asked}
