"""Who takes part in a round, and what is read of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.lanes import Lanes, Step
from model.rounds import MAX_READS, MAX_TOGETHER, Look, Making, Seen, run_together
from tests.model.scripted import ScriptedLanes
from tests.model.tiny import VOCAB


def speaker(lanes: Lanes, count: int, reads: int = 1) -> Making[list[Seen]]:
    """`count` greedy tokens, `reads` positions read for each."""
    lane = lanes.fork(10_000)
    said: list[Seen] = []
    try:
        for _ in range(count):
            [[seen]] = yield [Look(Step(lane, [said[-1].token if said else 0] * reads, reads))]
            said.append(seen)
    finally:
        lanes.drop(lane)
    return said


@given(st.lists(st.integers(0, 6), max_size=150))
def test_answers_keep_their_order_and_the_table_its_width(counts: list[int]) -> None:
    lanes = ScriptedLanes(*((1, [n] * 10) for n in range(len(counts))))
    made = run_together(lanes, [speaker(lanes, count) for count in counts])
    assert [[seen.token for seen in said] for said in made] == [
        [number] * count for number, count in enumerate(counts)
    ]
    assert not lanes.lanes
    assert max(lanes.alive, default=0) <= MAX_TOGETHER
    # Whoever holds a lane takes part.
    assert lanes.alive == [len(steps) for steps in lanes.rounds]
    assert sum(lanes.alive) == sum(counts)


def test_a_finished_answer_makes_room_at_once() -> None:
    counts = [1] * 3 + [5] * (MAX_TOGETHER + 3)
    lanes = ScriptedLanes(*((1, [3] * 9) for _ in counts))
    run_together(lanes, [speaker(lanes, count) for count in counts])
    assert lanes.alive[:2] == [MAX_TOGETHER, MAX_TOGETHER]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, MAX_READS + 50)), max_size=12))
def test_reads_stay_within_their_bound(wishes: list[tuple[int, int]]) -> None:
    """Who reads much takes turns; who reads more than a round may goes alone."""
    lanes = ScriptedLanes(*((1, [3] * 4000) for _ in wishes))
    run_together(lanes, [speaker(lanes, count, reads) for count, reads in wishes])
    for steps in lanes.rounds:
        assert len(steps) == 1 or sum(step.read for step in steps) <= MAX_READS
    assert sum(len(steps) for steps in lanes.rounds) == sum(count for count, _ in wishes)


def test_who_does_not_fit_is_first_in_the_next_round() -> None:
    lanes = ScriptedLanes(*((1, [3] * 4000) for _ in range(3)))
    run_together(lanes, [speaker(lanes, 2, reads) for reads in (1, MAX_READS, 1)])
    assert [[step.lane for step in steps] for steps in lanes.rounds] == [[1, 3], [2], [1, 3], [2]]


def bits(*tokens: int) -> bytes:
    mask = np.zeros(VOCAB, dtype=np.uint8)
    mask[list(tokens)] = 1
    return np.packbits(mask, bitorder="little").tobytes() + b"\xff" * 4


def looker(lanes: Lanes, *looks: Look) -> Making[list[list[Seen]]]:
    for _ in looks:
        lanes.fork(100)
    return (yield list(looks))


def test_masks_and_given_tokens_are_read_where_they_belong() -> None:
    """One round with a masked choice, given tokens at two positions, and a free choice."""
    lanes = ScriptedLanes((2, [7]), (1, [10, 11, 12]), (2, [9]))
    looks = [
        Look(Step(1, [0, 0]), bits(5, 6)),
        Look(Step(2, [0, 10, 11], read=2), given=((0, 11), (1, 12), (1, 13))),
        Look(Step(3, [0, 0])),
    ]
    ((masked, scored, free),) = run_together(lanes, [looker(lanes, *looks)])
    rivals = math.log(math.exp(5) + VOCAB - 1)
    assert [seen.token for seen in (*masked, *scored, *free)] == [5, 11, 12, 13, 9]
    assert masked[0].logprob == pytest.approx(math.log(1 / 2), abs=1e-5)
    expected = [5 - rivals, 5 - rivals, -rivals]
    assert [seen.logprob for seen in scored] == pytest.approx(expected, abs=1e-5)
    assert free[0].logprob == pytest.approx(5 - rivals, abs=1e-5)


def test_a_failed_forward_frees_every_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = ScriptedLanes(*((1, [3] * 9) for _ in range(70)))
    makings = [speaker(lanes, 5) for _ in range(70)]
    monkeypatch.setattr(lanes, "run", lambda steps: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_together(lanes, makings)
    assert len(lanes.all) == MAX_TOGETHER
    assert not lanes.lanes
