"""The prompt's layout, pinned: it is never left to what an installed library makes of a template.

    <|im_start|>user\\n
    <t seconds><|vision_start|><|video_pad|>…<|vision_end|>      for each patch pair
    question<|im_end|>\\n<|im_start|>assistant\\n

Every piece is encoded on its own, so the counts here are exactly what is fed. The outer vision
wrapper, which some versions of the released processor add around the whole video, is off unless it
is asked for. Imports no torch.
"""

from __future__ import annotations

from model.options import OptionIds, split_options
from model.spec import CheckpointSpec
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

    def prefix_ids(self) -> list[int]:
        """Everything before the first patch pair."""
        outer = [self._spec.vision_start_id] if self._outer else []
        return [self.tokenizer.token_id(START), *self.tokenizer.encode("user\n"), *outer]

    def pair_ids(self, text: str, visual_tokens: int) -> list[int]:
        """One patch pair: timestamp, delimiters, `visual_tokens` placeholders."""
        spec = self._spec
        pads = [spec.video_token_id] * visual_tokens
        return [*self.tokenizer.encode(text), spec.vision_start_id, *pads, spec.vision_end_id]

    def question_ids(self, question: Question) -> list[int]:
        """The question and the turn of the assistant behind it."""
        outer = [self._spec.vision_end_id] if self._outer else []
        encode, token_id = self.tokenizer.encode, self.tokenizer.token_id
        turn = [token_id(END), *encode("\n"), token_id(START), *encode("assistant\n")]
        return outer + encode(question.text) + turn

    def prefix_tokens(self) -> int:
        return len(self.prefix_ids())

    def pair_tokens(self, text: str, visual_tokens: int) -> int:
        return len(self.tokenizer.encode(text)) + 2 + visual_tokens

    def option_ids(self, question: Question) -> OptionIds:
        """The answers of a choice."""
        return split_options(self.tokenizer.encode, question.options)

    def lane_tokens(self, question: Question) -> int:
        """The question with the longest answer on its own lane; options fork behind that."""
        if question.form == "choice":
            return len(self.question_ids(question)) + len(self.option_ids(question).prefix)
        return len(self.question_ids(question)) + question.max_tokens

    def question_tokens(self, question: Question) -> int:
        """All tokens that a question may take, every option's included."""
        forks = self.option_ids(question).rests if question.form == "choice" else ()
        return self.lane_tokens(question) + sum(len(rest) for rest in forks)
