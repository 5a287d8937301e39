"""The prompt's layout, pinned: it is never left to what an installed library makes of a template.

    <|im_start|>user\\n
    <t seconds><|vision_start|><|video_pad|>…<|vision_end|>      for each patch pair
    question<|im_end|>\\n<|im_start|>assistant\\n

A Thinking checkpoint goes on with <think>\\n, its thought, and </think>\\n\\n before the answer.
Every piece is encoded on its own, so the counts here are exactly what is fed. The outer vision
wrapper, which some versions of the released processor add around the whole video, is off unless it
is asked for. Imports no torch.
"""

from __future__ import annotations

from model.options import OptionIds, split_options
from model.spec import CheckpointSpec
from model.template import END_THINK, THINK, asks_to_think
from model.tokenizer import TextTokenizer
from schemas.ports import Question

START, END = "<|im_start|>", "<|im_end|>"
ENDS = (END, "<|endoftext|>")


class PromptLayout:
    """Pieces of the prompt as ids, and their counts."""

    def __init__(
        self, spec: CheckpointSpec, tokenizer: TextTokenizer, *, outer_wrapper: bool = False
    ) -> None:
        self._spec = spec
        self.tokenizer = tokenizer
        self._outer = outer_wrapper
        self.end_ids = frozenset(tokenizer.token_id(text) for text in ENDS)
        marks = (tokenizer.find_token(THINK), tokenizer.find_token(END_THINK))
        self.thinks = None not in marks and asks_to_think(tokenizer.path.parent)
        """Whether the checkpoint thinks before it answers."""

    def prefix_ids(self) -> list[int]:
        """Everything before the first patch pair."""
        outer = [self._spec.vision_start_id] if self._outer else []
        return [self.tokenizer.token_id(START), *self.tokenizer.encode("user\n"), *outer]

    def pair_ids(self, text: str, visual_tokens: int) -> list[int]:
        """One patch pair: timestamp, delimiters, `visual_tokens` placeholders."""
        spec = self._spec
        pads = [spec.video_token_id] * visual_tokens
        return [*self.tokenizer.encode(text), spec.vision_start_id, *pads, spec.vision_end_id]

    def image_ids(self, visual_tokens: int) -> list[int]:
        """One image: delimiters, `visual_tokens` placeholders, no timestamp."""
        spec = self._spec
        return [spec.vision_start_id, *[spec.image_token_id] * visual_tokens, spec.vision_end_id]

    def question_ids(self, question: Question) -> list[int]:
        """The question and the turn of the assistant behind it."""
        outer = [self._spec.vision_end_id] if self._outer else []
        encode, token_id = self.tokenizer.encode, self.tokenizer.token_id
        turn = [token_id(END), *encode("\n"), token_id(START), *encode("assistant\n")]
        thought = [token_id(THINK), *encode("\n")] if self.thinks else []
        return outer + encode(question.text) + turn + thought

    def end_think_ids(self) -> list[int]:
        """What ends a thought and comes before the answer: `</think>` first."""
        return [self.tokenizer.token_id(END_THINK), *self.tokenizer.encode("\n\n")]

    def prefix_tokens(self) -> int:
        return len(self.prefix_ids())

    def pair_tokens(self, text: str, visual_tokens: int) -> int:
        return len(self.tokenizer.encode(text)) + 2 + visual_tokens

    def option_ids(self, question: Question) -> OptionIds:
        """The answers of a choice."""
        return split_options(self.tokenizer.encode, question.options)

    def lane_tokens(self, question: Question) -> int:
        """The question with the longest thought and answer on its own lane; options fork behind."""
        count = len(self.question_ids(question))
        if self.thinks:
            count += question.think_tokens + len(self.end_think_ids())
        if question.form == "choice":
            return count + len(self.option_ids(question).prefix)
        return count + question.max_tokens

    def question_tokens(self, question: Question) -> int:
        """All tokens that a question may take, every option's included."""
        forks = self.option_ids(question).rests if question.form == "choice" else ()
        return self.lane_tokens(question) + sum(len(rest) for rest in forks)
