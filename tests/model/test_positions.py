"""Positions against the library's get_rope_index, and the processor's layout against ours."""

from __future__ import annotations

import pytest
import torch

from model.facts import load_checkpoint
from model.positions import Cursor
from model.prompt import PromptLayout
from model.timeline import TimedTokens, join_tokens, text_tokens, video_tokens
from model.vision import PairFeatures
from schemas.ports import Question
from tests.model.tiny import Tiny, library_inputs, make_frames, make_plan, make_tiny


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return make_tiny()


QUESTION = Question("q", "\nWhen is a bar on screen?", "events")


def whole_prompt(layout: PromptLayout, pairs: int, rows: int, cols: int) -> TimedTokens:
    """The prompt as a session feeds it, in one piece."""
    plan = make_plan(layout, pairs=pairs, rows=rows, cols=cols)
    none = PairFeatures((torch.zeros(pairs * rows * cols, 1),))
    parts = []
    prefix, cursor = text_tokens(layout.prefix_ids(), Cursor())
    parts.append(prefix)
    for chunk in plan.chunks:
        some, cursor = video_tokens(chunk.pairs, plan.sampling.grid, none, layout, cursor)
        parts.append(some)
    tail, _ = text_tokens(layout.question_ids(QUESTION), cursor)
    parts.append(tail)
    return join_tokens(parts)


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (2, 3), (5, 2), (3, 3)])
@pytest.mark.parametrize("outer", [False, True])
def test_positions_equal_the_librarys(tiny: Tiny, rows: int, cols: int, outer: bool) -> None:
    checkpoint = load_checkpoint(str(tiny.folder))
    layout = PromptLayout(checkpoint.spec, checkpoint.counter.tokenizer, outer_wrapper=outer)
    prompt = whole_prompt(layout, 3, rows, cols)
    inputs = library_inputs(prompt.ids.tolist(), make_frames(6, rows, cols))
    expected, _ = tiny.reference.model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        video_grid_thw=inputs["video_grid_thw"],
    )
    assert torch.equal(prompt.positions, expected[:, 0])


def test_cursor_moves_by_the_longer_side() -> None:
    _, after = Cursor(10).pair(2, 5)
    assert after.at == 15
    _, after = Cursor(10).text(3)
    assert after.at == 13


def test_slices_carry_their_own_features(tiny: Tiny) -> None:
    layout = load_checkpoint(str(tiny.folder)).counter
    plan = make_plan(layout, pairs=2, pairs_per_chunk=2)
    marks = torch.arange(12.0)[:, None]
    tokens, _ = video_tokens(
        plan.chunks[0].pairs, plan.sampling.grid, PairFeatures((marks,)), layout, Cursor()
    )
    assert len(tokens) == plan.video_tokens
    seen = torch.cat([tokens.slice(i, i + 1).levels[0] for i in range(len(tokens))])
    assert torch.equal(seen, marks)
