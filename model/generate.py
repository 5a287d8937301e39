"""Filled session + questions → answers: greedy, in each question's form, all side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llguidance import LLMatcher, LLTokenizer

from model.decoding import Generated, choose, speak, think, write
from model.grammar import build_grammar
from model.lanes import Lanes
from model.prompt import PromptLayout
from model.rounds import Making, run_together
from model.tokenizer import TextTokenizer
from schemas.errors import InvariantError
from schemas.ports import Question, Reply


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


def generate_answers(
    lanes: Lanes, questions: Sequence[Question], layout: PromptLayout, grammars: GrammarTable
) -> list[Generated]:
    """Answer every question on a lane of its own; in the order of the questions."""
    return run_together(lanes, [_answer(lanes, q, layout, grammars) for q in questions])


def generate_free(
    lanes: Lanes, prompt_ids: list[int], ends: frozenset[int], max_tokens: int
) -> Generated:
    """Greedy without a grammar, up to an end token: the plain loop that libraries run."""
    return run_together(lanes, [_free(lanes, prompt_ids, ends, max_tokens)])[0]


def reply_of(question: Question, made: Generated, layout: PromptLayout) -> Reply:
    """The answer as text."""
    text = layout.tokenizer.decode([token for token in made.ids if token not in layout.end_ids])
    return Reply(
        question.query_id,
        text,
        made.finish,
        len(made.ids),
        made.mean_logprob,
        made.num_think_tokens,
    )


def _answer(
    lanes: Lanes, question: Question, layout: PromptLayout, grammars: GrammarTable
) -> Making[Generated]:
    lane = lanes.fork(layout.lane_tokens(question))
    try:
        waiting, num_thought = layout.question_ids(question), 0
        if layout.thinks:
            closing = layout.end_think_ids()
            ends = layout.end_ids | {closing[0]}
            waiting, num_thought = yield from think(
                lane, waiting, ends, closing, question.think_tokens
            )
        if question.form == "choice":
            made = yield from choose(lanes, lane, waiting, layout.option_ids(question))
        else:
            matcher = grammars.matcher(question)
            made = yield from write(lane, waiting, matcher, question.max_tokens)
        return replace(made, num_think_tokens=num_thought)
    finally:
        lanes.drop(lane)


def _free(
    lanes: Lanes, prompt_ids: list[int], ends: frozenset[int], max_tokens: int
) -> Making[Generated]:
    lane = lanes.fork(len(prompt_ids) + max_tokens)
    try:
        return (yield from speak(lane, prompt_ids, ends, max_tokens))
    finally:
        lanes.drop(lane)
