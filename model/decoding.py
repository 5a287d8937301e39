"""Ways to spell an answer on one lane, token by token: under a grammar, or freely."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher

from model.lanes import Step
from model.rounds import Look, Making, Seen
from schemas.errors import InvariantError
from schemas.ports import Finish


@dataclass(frozen=True, slots=True)
class Generated:
    """Tokens of one answer and how it ended."""

    ids: list[int]
    finish: Finish
    mean_logprob: float


def write(
    lane: int, prompt_ids: list[int], matcher: LLMatcher, max_tokens: int
) -> Making[Generated]:
    """Decode until the grammar is complete or `max_tokens` are out.

    Text that the grammar forces is appended in one forward; the model is asked only where it may
    choose.
    """
    ids: list[int] = []
    logprobs: list[float] = []
    waiting = list(prompt_ids)
    while not matcher.is_stopped():
        forced = matcher.compute_ff_tokens()
        if len(forced) > max_tokens - len(ids):
            ids += forced[: max_tokens - len(ids)]
            break
        if forced:
            matcher.consume_tokens(forced)
            ids += forced
            waiting += forced
            continue
        if len(ids) >= max_tokens:
            break
        allowed = matcher.compute_bitmask()
        [[seen]] = yield [Look(Step(lane, waiting), allowed)]
        if int.from_bytes(allowed, "little").bit_count() > 1:
            logprobs.append(seen.logprob)
        matcher.consume_token(seen.token)
        ids.append(seen.token)
        waiting = [seen.token]
    if matcher.is_error():
        raise InvariantError(f"an answer left its grammar: {matcher.get_error()}")
    complete = matcher.is_stopped() or matcher.is_accepting()
    return Generated(ids, "complete" if complete else "truncated", _mean(logprobs))


def speak(
    lane: int, prompt_ids: list[int], ends: frozenset[int], max_tokens: int
) -> Making[Generated]:
    """Decode without a grammar up to an end token, which is kept, or `max_tokens`.

    The last token is chosen and not yet run.
    """
    said: list[Seen] = []
    waiting = list(prompt_ids)
    ended = False
    while len(said) < max_tokens and not ended:
        [[seen]] = yield [Look(Step(lane, waiting))]
        said.append(seen)
        waiting = [seen.token]
        ended = seen.token in ends
    mean = _mean([seen.logprob for seen in said])
    return Generated([seen.token for seen in said], "complete" if ended else "truncated", mean)


def _mean(logprobs: list[float]) -> float:
    return float(np.mean(logprobs)) if logprobs else 0.0
