"""A model that says what its question tells it to, so that jobs are tested without weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import ConfigError, InvariantError
from schemas.media import FrameBatch
from schemas.plan import VideoPlan
from schemas.ports import ModelFacts, Question, Reply
from tests.counter import Counter

FACTS = ModelFacts("fake", "f" * 64, 32, 4096, 1000, 10, 5, 100)


class FakeModel:
    """`find: say {...}` is answered with what follows `say `; `cut` makes the answer end early."""

    facts = FACTS
    counter = Counter()

    def pair_seconds(self) -> float:
        return 1e-12

    def begin(self, plan: VideoPlan) -> FakeFilling:
        return FakeFilling(plan)

    def resume(self, plan: VideoPlan, path: Path, video_id: str) -> FakeFilling:
        facts = json.loads(path.read_text())
        if facts["video"] != video_id:
            raise ConfigError("another video")
        return FakeFilling(plan, facts["chunks"], facts["corrupt"])


@dataclass
class FakeFilling:
    plan: VideoPlan
    num_chunks: int = 0
    num_corrupt: int = 0

    def feed(self, frames: FrameBatch) -> None:
        if frames.chunk_index != self.num_chunks:
            raise InvariantError("out of order")
        self.num_chunks += 1
        self.num_corrupt += frames.num_corrupt

    def rewind(self, num_chunks: int) -> None:
        if num_chunks > self.num_chunks:
            raise InvariantError("cannot rewind forwards")
        self.num_chunks = num_chunks

    def replan(self, plan: VideoPlan) -> None:
        self.plan = plan

    def save(self, path: Path, video_id: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"video": video_id, "chunks": self.num_chunks, "corrupt": self.num_corrupt}
        path.write_text(json.dumps(facts))

    def finish(self) -> FakeFilled:
        if self.num_chunks != len(self.plan.chunks):
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
