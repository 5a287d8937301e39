"""Token counts that can be followed by hand; importing this costs nothing."""

from __future__ import annotations

from schemas.ports import Question


class Counter:
    """Ten tokens before the video, eight around each pair, twenty per question."""

    def prefix_tokens(self) -> int:
        return 10

    def pair_tokens(self, text: str, visual_tokens: int) -> int:
        return len(text.split(".")[0]) + 2 + visual_tokens

    def question_tokens(self, question: Question) -> int:
        return 20 + question.max_tokens
