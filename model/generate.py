"""Filled cache + question → answer text. Greedy, under the question's grammar.

Text that the grammar forces is appended in one forward; the model is asked only where it may
choose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from model.grammar import build_grammar
from model.tokenizer import TextTokenizer
from schemas.errors import InvariantError
from schemas.ports import Finish, Question

Forward = Callable[[list[int]], Tensor]
"""Appends tokens to a fork and returns the (vocabulary,) logits behind them."""


@dataclass(frozen=True, slots=True)
class Generated:
    """Tokens of one answer and how it ended."""

    ids: list[int]
    finish: Finish
    mean_logprob: float


class GrammarTable:
    """The tokenizer in the form that grammars are matched with; built once per checkpoint."""

    def __init__(self, tokenizer: TextTokenizer, vocab: int, end_id: int) -> None:
        self.table = LLTokenizer(tokenizer.json(), n_vocab=vocab, eos_token=end_id)

    def matcher(self, question: Question) -> LLMatcher:
        """A fresh matcher. Raises InvariantError where the grammar does not hold."""
        matcher = LLMatcher(self.table, LLMatcher.grammar_from_lark(build_grammar(question)))
        if matcher.is_error():
            raise InvariantError(f"the grammar of {question.query_id!r}: {matcher.get_error()}")
        return matcher


def generate_answer(
    forward: Forward, prompt_ids: list[int], matcher: LLMatcher, max_tokens: int
) -> Generated:
    """Decode one answer until its grammar is complete or `max_tokens` are out."""
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
        logits = forward(waiting)
        allowed = _allowed(matcher, len(logits), logits.device)
        # Probabilities among what the grammar allows: how sure the model is of this answer rather
        # than of another one that could have been given here.
        scores = torch.log_softmax(logits.masked_fill(~allowed, -torch.inf), dim=-1)
        token = int(scores.argmax())
        if allowed.sum() > 1:
            logprobs.append(float(scores[token]))
        matcher.consume_token(token)
        ids.append(token)
        waiting = [token]
    if matcher.is_error():
        raise InvariantError(f"an answer left its grammar: {matcher.get_error()}")
    complete = matcher.is_stopped() or matcher.is_accepting()
    mean = float(np.mean(logprobs)) if logprobs else 0.0
    return Generated(ids, "complete" if complete else "truncated", mean)


def generate_free(
    forward: Forward, prompt_ids: list[int], ends: frozenset[int], max_tokens: int
) -> Generated:
    """Greedy without a grammar, up to an end token: the plain loop that libraries run."""
    ids: list[int] = []
    logprobs: list[float] = []
    waiting = list(prompt_ids)
    while len(ids) < max_tokens:
        scores = torch.log_softmax(forward(waiting), dim=-1)
        token = int(scores.argmax())
        logprobs.append(float(scores[token]))
        ids.append(token)
        if token in ends:
            return Generated(ids, "complete", float(np.mean(logprobs)))
        waiting = [token]
    return Generated(ids, "truncated", float(np.mean(logprobs)))


def _allowed(matcher: LLMatcher, vocab: int, device: torch.device) -> Tensor:
    """(vocabulary,) bool: tokens that may come next."""
    words = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    bits = np.unpackbits(words, bitorder="little")[:vocab].astype(bool)
    return torch.from_numpy(bits).to(device)
