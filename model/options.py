"""A closed question's answers as tokens: what all begin with, and what tells each apart.

Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile


@dataclass(frozen=True, slots=True)
class OptionIds:
    """Every option's whole answer is `prefix` and its own one of `rests`."""

    prefix: list[int]
    rests: tuple[list[int], ...]
    """In the order of the options; none is empty and none begins another."""


def split_options(encode: Callable[[str], list[int]], options: Sequence[str]) -> OptionIds:
    """Answers are encoded whole, as a model would write them: the letters of an option may join
    those before or behind it in one token. The options are two or more, all different."""
    answers = [encode(json.dumps({"answer": option}, ensure_ascii=False)) for option in options]
    columns = zip(*answers, strict=False)
    shared = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
    return OptionIds(shared, tuple(answer[len(shared) :] for answer in answers))
