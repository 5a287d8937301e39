"""Images and several videos in one prompt, cut anywhere, against the library's own forward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from model.facts import load_checkpoint
from model.kv_cache import CacheForm, KvCache
from model.positions import Cursor
from model.prefill import run_tokens
from model.prompt import PromptLayout
from model.timeline import TimedTokens, image_tokens, join_tokens, text_tokens, video_tokens
from model.vision import VisionEncoder
from model.weights import load_weights
from schemas.media import RgbArray
from schemas.plan import FrameGrid, PatchPair
from schemas.ports import Question
from tests.model.tiny import Shape, Tiny, library_inputs, make_frames, make_plan, make_tiny

QUESTION = Question("q", "\nWhich of them shows a bar?", "events")


class Writer:
    """A prompt in the making: each call appends one part at the cursor."""

    def __init__(self, layout: PromptLayout, encoder: VisionEncoder) -> None:
        self._layout, self._encoder = layout, encoder
        self._cursor = Cursor()
        self.parts: list[TimedTokens] = []
        self.images: list[RgbArray] = []
        self.videos: list[RgbArray] = []

    def text(self, ids: list[int]) -> None:
        part, self._cursor = text_tokens(ids, self._cursor)
        self.parts.append(part)

    def say(self, text: str) -> None:
        self.text(self._layout.tokenizer.encode(text))

    def image(self, rows: int, cols: int) -> None:
        (picture,) = make_frames(1, rows, cols, seed=10 + len(self.images))
        self.images.append(picture)
        features = self._encoder.encode(np.stack([picture, picture]))
        grid = FrameGrid(rows, cols, 32)
        part, self._cursor = image_tokens(grid, features, self._layout, self._cursor)
        self.parts.append(part)

    def video(self, pairs: int, rows: int, cols: int) -> None:
        rgb = make_frames(2 * pairs, rows, cols, seed=20 + len(self.videos))
        self.videos.append(rgb)
        plan = make_plan(self._layout, pairs=pairs, rows=rows, cols=cols, pairs_per_chunk=pairs)
        shown: tuple[PatchPair, ...] = plan.chunks[0].pairs
        part, self._cursor = video_tokens(
            shown, plan.sampling.grid, self._encoder.encode(rgb), self._layout, self._cursor
        )
        self.parts.append(part)


class Case:
    """One checkpoint and one prompt with images, videos and text in turns."""

    def __init__(self, tiny: Tiny) -> None:
        self.tiny = tiny
        checkpoint = load_checkpoint(str(tiny.folder))
        self.weights = load_weights(tiny.folder, checkpoint.spec, "float32")
        layout = checkpoint.counter
        writer = Writer(layout, VisionEncoder(self.weights.vision, checkpoint.spec.vision))
        writer.text(layout.prefix_ids())
        writer.say("A title: ")
        writer.image(3, 2)
        writer.video(2, 2, 3)
        writer.say(" and then ")
        writer.video(3, 4, 1)
        writer.image(1, 1)
        writer.image(2, 5)
        writer.text(layout.question_ids(QUESTION))
        self.prompt = join_tokens(writer.parts)
        self.inputs = library_inputs(self.prompt.ids.tolist(), *writer.videos, images=writer.images)
        self._form = CacheForm(
            checkpoint.spec.text, torch.float32, torch.float32, self.weights.layer_devices
        )

    def logits(self, *cuts: int) -> Tensor:
        """(pieces, vocabulary): logits behind the last token of each piece between two cuts."""
        cache, start, hidden = KvCache(self._form, len(self.prompt)), 0, []
        for stop in (*cuts, len(self.prompt)):
            hidden.append(run_tokens(self.weights, self.prompt.slice(start, stop), cache, 1))
            start = stop
        return self.weights.logits(torch.cat(hidden))

    @torch.no_grad()
    def expected(self) -> Tensor:
        """(tokens, vocabulary)."""
        logits: Tensor = self.tiny.reference(**self.inputs).logits[0]
        return logits


@pytest.fixture(scope="module", params=[False, True], ids=["dense", "moe"])
def case(request: pytest.FixtureRequest) -> Case:
    """DeepStack as deep as the decoder: the last layer's level meets the rows that are read."""
    return Case(make_tiny(Shape(moe=request.param, tied=False, deepstack=(0, 1, 2), layers=3)))


def test_positions_equal_the_librarys(case: Case) -> None:
    expected, _ = case.tiny.reference.model.get_rope_index(
        **{name: case.inputs[name] for name in ("input_ids", "mm_token_type_ids")},
        image_grid_thw=case.inputs["image_grid_thw"],
        video_grid_thw=case.inputs["video_grid_thw"],
    )
    assert torch.equal(case.prompt.positions, expected[:, 0])


def test_logits_equal_the_librarys_in_pieces_of_any_size(case: Case) -> None:
    expected, count = case.expected(), len(case.prompt)
    assert expected.std() > 0.1
    for step in (1, 2, 3, 5, 7, 13, 64, 65, count - 1, count):
        cuts = tuple(range(step, count, step))
        behind = [stop - 1 for stop in (*cuts, count)]
        assert (case.logits(*cuts) - expected[behind]).abs().max() <= 1e-4, step


def test_a_cut_may_go_anywhere(case: Case) -> None:
    """Through an image, a frame, a timestamp or between two of them."""
    expected, count = case.expected(), len(case.prompt)
    for cut in range(1, count):
        assert (case.logits(cut) - expected[[cut - 1, count - 1]]).abs().max() <= 1e-4, cut
