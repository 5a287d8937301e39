"""Distances rewritten in heads that link: watchers score by the new sum, all else as before."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from recipes.nano.codes import CLASSES
from recipes.nano.retrieving import distances, links
from recipes.nano.retrieving.relink import COSINES, relinked
from recipes.nano.shape import HEAD_DIM, HEADS, ROPE_THETA

FARTHEST = 20_000
HALF = HEAD_DIM // 2
PREFIX = f"layers.{links.LAYER}.self_attn."


def told(thing: int | None, *, watches: int = 1, is_nothing: int = 0) -> Tensor:
    row = torch.zeros(links.TOLD)
    if thing is not None:
        row[thing] = 1
    row[[links.WATCHES_AT, links.NOTHING_AT]] = torch.tensor([watches, is_nothing]).float()
    return row


ROWS = torch.stack([told(0), told(1), told(None), told(None, watches=0, is_nothing=1)])
WATCHER, OTHER, IDLE, NOTHING = range(len(ROWS))


def decoder() -> dict[str, Tensor]:
    """Heads that project the k-th of `ROWS`, one-hot, to what it is told to hold."""
    held = {part: links.wanted(ROWS, is_key=part == "k").T.repeat(HEADS, 1) for part in "qk"}
    gains = torch.full((HEAD_DIM,), links.GAIN)
    return {
        PREFIX + "q_proj.weight": held["q"],
        PREFIX + "k_proj.weight": held["k"],
        PREFIX + "q_norm.weight": gains,
        PREFIX + "k_norm.weight": gains,
        PREFIX + "v_proj.weight": torch.eye(4),
    }


def score(weights: dict[str, Tensor], query: int, key: int, distance: int, head: int = 0) -> float:
    """Of a token that stands `distance` positions behind another, normed as heads do."""
    turned = []
    for part, row, place in (("q", query, distance), ("k", key, 0)):
        rows = weights[f"{PREFIX}{part}_proj.weight"].unflatten(0, (HEADS, HEAD_DIM))[head]
        own = HEAD_DIM**0.5 * F.normalize(rows[:, row], dim=0)
        own = own * weights[f"{PREFIX}{part}_norm.weight"]
        angles = place * ROPE_THETA ** -(torch.arange(HALF) / HALF)
        turned.append(torch.complex(own[:HALF], own[HALF:]) * torch.polar(torch.ones(HALF), angles))
    return float((turned[0] * turned[1].conj()).real.sum() / HEAD_DIM**0.5)


def sum_of(cosines: dict[int, tuple[float, float]], distance: int) -> float:
    return sum(
        size * math.cos(distance * ROPE_THETA ** -(number / HALF) + phase)
        for number, (size, phase) in cosines.items()
    )


OLD, NEW = decoder(), relinked(decoder())


@given(st.integers(30, FARTHEST), st.integers(0, HEADS - 1))
def test_watchers_score_by_the_new_sum_and_all_else_as_before(distance: int, head: int) -> None:
    by = sum_of(COSINES, distance) - sum_of(links.COSINES, distance)
    for key, change in ((WATCHER, by), (OTHER, by), (IDLE, by), (NOTHING, 0.0)):
        before, after = (score(one, WATCHER, key, distance, head) for one in (OLD, NEW))
        assert after - before == pytest.approx(change, abs=0.05)


@given(st.integers(30, FARTHEST))
def test_its_own_thing_then_nothing_then_all_else(distance: int) -> None:
    nothing = score(NEW, WATCHER, NOTHING, distance)
    assert score(NEW, WATCHER, WATCHER, distance) > nothing + 5
    assert score(NEW, WATCHER, OTHER, distance) < nothing - 5


def test_other_weights_are_left_alone() -> None:
    assert NEW.keys() == OLD.keys()
    assert NEW[PREFIX + "v_proj.weight"].equal(OLD[PREFIX + "v_proj.weight"])
    untouched = [k for k in range(HALF) if k not in COSINES]
    rows = [one[PREFIX + "q_proj.weight"].unflatten(0, (HEADS, 2, HALF)) for one in (OLD, NEW)]
    assert rows[0][:, :, untouched].equal(rows[1][:, :, untouched])
    assert COSINES.keys().isdisjoint(range(HALF - len(CLASSES) // 2, HALF))


def table(cosines: dict[int, tuple[float, float]]) -> tuple[Tensor, Tensor]:
    sizes, phases = torch.zeros(2, max(cosines) + 1)
    for number, (size, phase) in cosines.items():
        sizes[number], phases[number] = size, phase
    return sizes, phases


@pytest.mark.parametrize("cosines", [links.COSINES, COSINES])
def test_few_links_are_wrong_where_scores_are_somewhat_off(
    cosines: dict[int, tuple[float, float]],
) -> None:
    sizes, phases = table(cosines)
    drawn = distances.draw_distances(240)
    assert distances.share_wrong(sizes, phases, drawn, 1e-3) < 0.01
    assert distances.share_wrong(sizes, phases, drawn, 2) < 0.025
    assert distances.share_wrong(0 * sizes, phases, drawn, 2) > 0.4


def test_fewer_links_go_wrong_than_by_what_lessons_tell() -> None:
    drawn = distances.draw_distances(160)
    for off in (0.5, 1.0, 1.5):
        before, after = (
            distances.share_wrong(*table(cosines), drawn, off)
            for cosines in (links.COSINES, COSINES)
        )
        assert after < 0.75 * before
