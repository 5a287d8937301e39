"""One session for many passes gives what each pass gives when it is read from the beginning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from model.engine import LoadedModel, load_model
from pipeline.plan import group_chunks
from pipeline.reuse import SharedSession
from schemas.errors import InvariantError
from schemas.media import FrameBatch, RgbArray
from schemas.plan import Chunk, VideoPlan
from schemas.ports import Reply
from tests.model.test_engine import QUESTIONS
from tests.model.tiny import make_frames, make_plan, make_tiny

PAIRS = 14
CHUNK = 60
"""Tokens of a chunk: a few pairs, so that lengths end inside of chunks."""
Asked = list[tuple[str, list[Reply]]]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return load_model(str(make_tiny().folder), prefill_chunk=7, dtype=request.param)


def plan_of(model: LoadedModel, pairs: int) -> VideoPlan:
    plan = make_plan(model.counter, pairs=pairs, pairs_per_chunk=pairs)
    return replace(plan, chunks=group_chunks(plan.chunks[0].pairs, CHUNK))


def batches(plan: VideoPlan, pixels: RgbArray, first: int, stop: int) -> Iterator[FrameBatch]:
    """Chunks of a plan whose frame k is picture k."""
    at = {pts: number for number, pts in enumerate(plan.sampling.frame_pts)}
    for chunk in plan.chunks[first:stop]:
        yield FrameBatch(chunk.index, chunk.frame_pts, _pictures(chunk, at, pixels), 0)


def _pictures(chunk: Chunk, at: dict[int, int], pixels: RgbArray) -> RgbArray:
    return np.stack([pixels[at[pts]] for pts in chunk.frame_pts])


def from_the_beginning(model: LoadedModel, plan: VideoPlan, pixels: RgbArray) -> list[Reply]:
    session = model.begin(plan)
    for batch in batches(plan, pixels, 0, len(plan.chunks)):
        session.feed(batch)
    return session.finish().ask(QUESTIONS)


def with_needle(pixels: RgbArray, frame: int) -> RgbArray:
    marked = pixels.copy()
    marked[frame : frame + 2] = 255 - marked[frame : frame + 2]
    return marked


def shared(
    session: SharedSession,
    haystack: str,
    pixels: RgbArray,
    lengths: list[int],
    needle: int | None,
) -> list[list[Reply]]:
    model = session.model
    assert isinstance(model, LoadedModel)
    whole, plans = plan_of(model, PAIRS), [plan_of(model, pairs) for pairs in lengths]
    touched = None if needle is None else whole.sampling.frame_pts[needle]

    def frames(plan: VideoPlan, first: int, stop: int) -> Iterator[FrameBatch]:
        return batches(plan, pixels, first, stop)

    return [
        filled.ask(QUESTIONS) for _, filled in session.read(haystack, whole, plans, touched, frames)
    ]


def test_every_pass_answers_as_if_it_were_alone_to_the_last_bit(model: LoadedModel) -> None:
    whole = plan_of(model, PAIRS)
    assert len(whole.chunks) >= 4
    bare = make_frames(2 * PAIRS, seed=1)
    session = SharedSession(model)
    passes = [([3, 8, 14], None), ([14], 24), ([8, 14], 11), ([5, 8], 9), ([3, 14], 0)]
    naive_tokens = 0
    for lengths, needle in passes:
        pixels = bare if needle is None else with_needle(bare, needle)
        ours = shared(session, "one", pixels, lengths, needle)
        theirs = [from_the_beginning(model, plan_of(model, n), pixels) for n in lengths]
        assert ours == theirs
        naive_tokens += sum(plan_of(model, n).video_tokens for n in lengths)
    assert session.prefilled_tokens < 0.75 * naive_tokens


def test_another_haystack_shares_nothing(model: LoadedModel) -> None:
    session = SharedSession(model)
    first, second = make_frames(2 * PAIRS, seed=1), make_frames(2 * PAIRS, seed=2)
    shared(session, "one", first, [PAIRS], None)
    ours = shared(session, "two", with_needle(second, 20), [PAIRS], 20)
    whole = plan_of(model, PAIRS)
    assert ours == [from_the_beginning(model, whole, with_needle(second, 20))]


def test_a_pass_that_failed_half_way_leaves_nothing_behind(model: LoadedModel) -> None:
    session = SharedSession(model)
    bare = make_frames(2 * PAIRS, seed=1)
    shared(session, "one", bare, [PAIRS], None)
    whole, plan = plan_of(model, PAIRS), plan_of(model, 8)
    marked = with_needle(bare, 6)

    def breaks(plan: VideoPlan, first: int, stop: int) -> Iterator[FrameBatch]:
        yield from batches(plan, marked, first, stop - 1)
        raise InvariantError("no more")

    with pytest.raises(InvariantError, match="no more"):
        list(session.read("one", whole, [plan], whole.sampling.frame_pts[6], breaks))
    ours = shared(session, "one", with_needle(bare, 20), [PAIRS], 20)
    assert ours == [from_the_beginning(model, whole, with_needle(bare, 20))]


def test_a_session_goes_on_only_under_a_plan_that_begins_as_its_own(model: LoadedModel) -> None:
    whole = plan_of(model, PAIRS)
    session = model.begin(whole)
    for batch in batches(whole, make_frames(2 * PAIRS), 0, 2):
        session.feed(batch)
    other = make_plan(model.counter, pairs=PAIRS, pairs_per_chunk=1)
    with pytest.raises(InvariantError, match="begins as its own"):
        session.replan(other)
    fresh = model.begin(plan_of(model, 3))
    with pytest.raises(InvariantError, match="longer than the cache"):
        fresh.replan(plan_of(model, 3 * PAIRS))
