"""Ways to an answer on one lane: under a grammar, freely, or as a choice among options."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher

from model.lanes import Lanes, Step
from model.memory import MAX_READS
from model.options import OptionIds
from model.rounds import Look, Making, Seen
from schemas.errors import InvariantError
from schemas.ports import Finish


@dataclass(frozen=True, slots=True)
class Generated:
    """Tokens of one answer and how it ended."""

    ids: list[int]
    finish: Finish
    mean_logprob: float
    num_think_tokens: int = 0


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


def think(
    lane: int, prompt_ids: list[int], ends: frozenset[int], closing: list[int], max_tokens: int
) -> Making[tuple[list[int], int]]:
    """Let the model think freely until one of `ends`, at most `max_tokens`.

    Returns the tokens that are to be run before the answer, `closing` last, and the number thought.
    """
    thought = yield from speak(lane, prompt_ids, ends, max_tokens)
    if thought.finish == "complete":
        # The end itself was chosen and not run: `closing` says it, whichever it was.
        return closing, len(thought.ids) - 1
    return [*(thought.ids[-1:] or prompt_ids), *closing], len(thought.ids)


def choose(lanes: Lanes, lane: int, prompt_ids: list[int], options: OptionIds) -> Making[Generated]:
    """The likeliest option; its `mean_logprob` is the log of its share among all of them."""
    scores = yield from score_options(lanes, lane, prompt_ids, options)
    best = int(np.argmax(scores))
    share = min(0.0, scores[best] - float(np.logaddexp.reduce(scores)))
    return Generated([*options.prefix, *options.rests[best]], "complete", share)


def score_options(
    lanes: Lanes, lane: int, prompt_ids: list[int], options: OptionIds
) -> Making[list[float]]:
    """Natural-log probability of each option behind the prompt, as the sum over its tokens.

    The prompt and what all answers begin with are run once; each option is a fork behind them.
    """
    first = tuple((0, rest[0]) for rest in options.rests)
    [seen] = yield [Look(Step(lane, [*prompt_ids, *options.prefix]), given=first)]
    scores = [token.logprob for token in seen]
    for group in _fitting([n for n, rest in enumerate(options.rests) if len(rest) > 1], options):
        forks: list[int] = []
        try:
            looks = []
            for rest in (options.rests[number] for number in group):
                forks.append(lanes.fork(len(rest) - 1, lane))
                step = Step(forks[-1], rest[:-1], len(rest) - 1)
                looks.append(Look(step, given=tuple(enumerate(rest[1:]))))
            for number, tokens in zip(group, (yield looks), strict=True):
                scores[number] += sum(token.logprob for token in tokens)
        finally:
            for fork in forks:
                lanes.drop(fork)
    return scores


def _fitting(numbers: list[int], options: OptionIds) -> list[list[int]]:
    """Options in groups that one round reads; mostly there is one."""
    groups: list[list[int]] = []
    reads = 0
    for number in numbers:
        reads += len(options.rests[number]) - 1
        if not groups or reads > MAX_READS:
            groups.append([])
            reads = len(options.rests[number]) - 1
        groups[-1].append(number)
    return groups


def _mean(logprobs: list[float]) -> float:
    return float(np.mean(logprobs)) if logprobs else 0.0
