"""A model that says what its question tells it to, so that jobs are tested without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.errors import InvariantError
from schemas.media import FrameBatch
from schemas.plan import VideoPlan
from schemas.ports import ModelFacts, Question, Reply
from tests.counter import Counter

FACTS = ModelFacts("fake", "f" * 64, 32, 4096, 1000, 10, 5, 100)


class FakeModel:
    """`find: say {...}` is answered with what follows `say `; `cut` makes the answer end early."""

    facts = FACTS
    counter = Counter()

    def begin(self, plan: VideoPlan) -> FakeFilling:
        return FakeFilling(plan)


@dataclass
class FakeFilling:
    plan: VideoPlan
    fed: int = 0

    def feed(self, frames: FrameBatch) -> None:
        if frames.chunk_index != self.fed:
            raise InvariantError("out of order")
        self.fed += 1

    def finish(self) -> FakeFilled:
        if self.fed != len(self.plan.chunks):
            raise InvariantError("chunks are missing")
        return FakeFilled()


class FakeFilled:
    def ask(self, questions: Sequence[Question]) -> list[Reply]:
        return [self._reply(question) for question in questions]

    def _reply(self, question: Question) -> Reply:
        said = question.text.split("visible: ")[1].split(". Answer in JSON")[0]
        if said == "crash":
            raise RuntimeError("0xdeadbeef")
        if said == "cut":
            return Reply(question.query_id, '{"events": [{"start": 1.0', "truncated", 9, -0.1)
        text = said.removeprefix("say ") if said.startswith("say ") else '{"events": []}'
        return Reply(question.query_id, text, "complete", 9, -0.1)
