"""Step 4a: episodes. A course of appearing and vanishing over one cast becomes token ids, positions,
picture features, questions with answers, and what the probes should tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from pipeline.questions import build_questions
from recipes.nano.network import Batch
from recipes.nano.pictures import CAST_SIZE, CLASSES
from recipes.nano.shape import ID
from schemas.job import QuerySpec
from schemas.time import TimeSpan, timestamp_text

FeatureCast = tuple[tuple[int, ...], tuple[int, int], list[Tensor]]
MAX_RETURNS = 3
NUM_TRAITS = len(CLASSES) * (2 + MAX_RETURNS)
"""Per pair: visible, vanished just now, and appeared for the first, second, third time."""
_PHRASES = (
    ("a {}", 0.5),
    ("{}", 0.1),
    ("the {}", 0.15),
    ("a {} is visible", 0.1),
    ("a {} on screen", 0.1),
    ("when a {} is on screen", 0.05),
)
# Tokens that the grammar forces at inference teach little.
_FORCED, _FREE = 0.05, 1.0


@dataclass(frozen=True, slots=True)
class Targets:
    """What is to be learned from a batch; token columns count from the start of the sequence."""

    labels: Tensor
    """(B, N): the next token to say, −100 where nothing is."""
    weights: Tensor
    """(B, N) float."""
    pair_at: Tensor
    """(B, pairs): column of each pair's end token."""
    traits: Tensor
    """(B, pairs, NUM_TRAITS) float."""
    clocks: Tensor
    """(B, pairs, 3): hundreds, seconds below a hundred, tenths of each pair's time."""
    asked_at: Tensor
    """(B, questions): column of each prompt's last token."""
    asked: Tensor
    """(B, questions): class asked for."""
    answer_of: Tensor
    """(B, N): number of the question whose answer starts here on, −1 elsewhere."""


@dataclass(slots=True)
class _Row:
    """One sequence under construction."""

    ids: list[int]
    positions: list[npt.NDArray[np.int64]]
    next_position: int = 0

    def text(self, ids: list[int]) -> None:
        at = self.next_position + np.arange(len(ids))
        self.ids += ids
        self.positions.append(np.stack([at, at, at]))
        self.next_position += len(ids)

    def pad(self, tokens: tuple[npt.NDArray[np.int64], int], count: int) -> None:
        offsets, step = tokens
        self.ids += [ID["<|video_pad|>"]] * count
        self.positions.append(self.next_position + offsets)
        self.next_position += step


@dataclass(frozen=True, slots=True)
class Course:
    """What happens when, in pairs."""

    spans: tuple[tuple[tuple[int, int], ...], ...]
    """For each member of the cast: half-open spans of pairs."""
    subsets: npt.NDArray[np.int64]
    seconds: npt.NDArray[np.float64]
    """Printed time of each pair."""
    start_s: float
    end_s: float


def draw_course(rng: np.random.Generator, pairs: int) -> Course:
    """A random course of `pairs` patch pairs with random times."""
    spans = tuple(_draw_spans(rng, pairs) for _ in range(CAST_SIZE))
    subsets = np.zeros(pairs, dtype=np.int64)
    for member, own in enumerate(spans):
        for start, end in own:
            subsets[start:end] |= 1 << member
    step_s = float(rng.choice([0.25, 0.5, 0.5, 1.0, 1.0, 1.0, 2.0, rng.uniform(0.25, 4)]))
    start_s = 0.0 if rng.uniform() < 0.4 else float(rng.uniform(0, rng.choice([100, 1000, 3600])))
    steps = np.full(2 * pairs, step_s)
    if rng.uniform() < 0.25:
        steps *= rng.uniform(0.5, 1.5, 2 * pairs)
    times = start_s + np.concatenate([[0.0], np.cumsum(steps)])
    middles = (times[:-1:2] + times[1::2]) / 2
    return Course(spans, subsets, middles, start_s, float(times[-1]))


def _draw_spans(rng: np.random.Generator, pairs: int) -> tuple[tuple[int, int], ...]:
    count = int(rng.choice([0, 1, 2, 3], p=[0.2, 0.4, 0.22, 0.18]))
    count = min(count, (pairs + 1) // 2)
    cuts = np.sort(rng.choice(pairs + 1, 2 * count, replace=False)) if count else []
    return tuple((int(a), int(b)) for a, b in zip(cuts[::2], cuts[1::2], strict=True))


class EpisodeMaker:
    """Draws batches from kept picture features."""

    def __init__(self, casts: list[FeatureCast], tokenizer: Tokenizer) -> None:
        self._by_grid: dict[tuple[int, int], list[FeatureCast]] = {}
        for cast in casts:
            self._by_grid.setdefault(cast[1], []).append(cast)
        self._tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        if text not in self._cache:
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
            if len(self._cache) > 200_000:
                self._cache.clear()
            self._cache[text] = ids
        return self._cache[text]

    def draw(
        self, rng: np.random.Generator, pairs: int, questions: int, token_budget: int
    ) -> tuple[Batch, Targets]:
        """One batch of episodes of `pairs` pairs, as many as fit `token_budget`."""
        grids = [g for g in self._by_grid if pairs * (g[0] * g[1] + 8) < 5000]
        odds = np.asarray([len(self._by_grid[g]) for g in grids], dtype=float)
        if pairs > 60:
            odds /= np.asarray([g[0] * g[1] for g in grids])
        grid = grids[int(rng.choice(len(grids), p=odds / odds.sum()))]
        length = pairs * (grid[0] * grid[1] + 8) + questions * 42
        size = max(2, min(48, token_budget // length))
        casts = [
            self._by_grid[grid][int(i)] for i in rng.integers(0, len(self._by_grid[grid]), size)
        ]
        return self._build(rng, casts, grid, pairs, questions)

    def _build(
        self,
        rng: np.random.Generator,
        casts: list[FeatureCast],
        grid: tuple[int, int],
        pairs: int,
        questions: int,
    ) -> tuple[Batch, Targets]:
        size = len(casts)
        courses = [draw_course(rng, pairs) for _ in casts]
        rows, pair_at = [], []
        for course in courses:
            row, at = self._video_row(course, grid)
            rows.append(row)
            pair_at.append(at)
        video_len = max(len(row.ids) for row in rows)
        asked = [self._questions(rng, casts[i], courses[i], questions) for i in range(size)]
        tail = max(sum(len(q.ids) for q in row) for row in asked)
        total = video_len + tail
        ids = torch.zeros(size, total, dtype=torch.long)
        positions = torch.zeros(3, size, total, dtype=torch.long)
        labels = torch.full((size, total), -100)
        weights = torch.zeros(size, total)
        answer_of = torch.full((size, total), -1)
        mask = torch.zeros(size, 1, tail, total, dtype=torch.bool)
        mask[:, :, :, 0] = True  # Padding must see something.
        asked_at = torch.zeros(size, questions, dtype=torch.long)
        for i, row in enumerate(rows):
            used = len(row.ids)
            ids[i, :used] = torch.tensor(row.ids)
            positions[:, i, :used] = torch.from_numpy(np.concatenate(row.positions, axis=1))
            column = video_len
            for number, question in enumerate(asked[i]):
                n = len(question.ids)
                span = slice(column, column + n)
                ids[i, span] = torch.tensor(question.ids)
                positions[:, i, span] = row.next_position + torch.arange(n)
                labels[i, column + question.prompt - 1 : column + n - 1] = ids[
                    i, column + question.prompt : column + n
                ]
                weights[i, column + question.prompt - 1 : column + n - 1] = torch.tensor(
                    question.weights
                )
                answer_of[i, column + question.prompt - 1 : column + n - 1] = number
                asked_at[i, number] = column + question.prompt - 1
                own = slice(column - video_len, column - video_len + n)
                mask[i, 0, own, :used] = True
                mask[i, 0, own, span] = torch.ones(n, n, dtype=torch.bool).tril()
                column += n
        features = _pick_features(rng, casts, courses)
        visual = ids == ID["<|video_pad|>"]
        batch = Batch(ids, positions, video_len, visual, features, mask)
        targets = Targets(
            labels,
            weights,
            torch.tensor(pair_at),
            torch.stack([_traits(c[0], k) for c, k in zip(casts, courses, strict=True)]),
            torch.stack([_clocks(course.seconds) for course in courses]),
            asked_at,
            torch.tensor([[q.asked for q in row] for row in asked]),
            answer_of,
        )
        return batch, targets

    def _video_row(self, course: Course, grid: tuple[int, int]) -> tuple[_Row, list[int]]:
        row = _Row([], [])
        row.text(self.encode("<|im_start|>user\n"))
        rows, cols = np.mgrid[0 : grid[0], 0 : grid[1]].reshape(2, -1)
        visual = (np.stack([np.zeros_like(rows), rows, cols]), max(grid))
        at = []
        for seconds in course.seconds:
            row.text([*self.encode(timestamp_text(seconds)), ID["<|vision_start|>"]])
            row.pad(visual, grid[0] * grid[1])
            at.append(len(row.ids))
            row.text([ID["<|vision_end|>"]])
        return row, at

    def _questions(
        self, rng: np.random.Generator, cast: FeatureCast, course: Course, count: int
    ) -> list[_Asked]:
        members = list(rng.permutation(CAST_SIZE))
        picked: list[_Asked] = []
        for number in range(count):
            if number % 3 != 2 and members:
                member = int(members.pop())
                picked.append(self._ask(rng, cast[0][member], course.spans[member], course))
            else:
                picked.append(self._ask(rng, _absent(rng, cast[0]), (), course))
        return picked

    def _ask(
        self,
        rng: np.random.Generator,
        number: int,
        spans: tuple[tuple[int, int], ...],
        course: Course,
    ) -> _Asked:
        phrase = rng.choice([p for p, _ in _PHRASES], p=[odds for _, odds in _PHRASES])
        query = QuerySpec(id="q", find=str(phrase).format(CLASSES[number]))
        base = Fraction(1, 1000)
        span = TimeSpan(round(course.start_s * 1000), round(course.end_s * 1000), base)
        text = build_questions([query], span)[0].text
        ids = list(self.encode(text + "<|im_end|>\n<|im_start|>assistant\n"))
        prompt, weights = len(ids), []
        for piece, weight in _answer(spans, course):
            encoded = self.encode(piece)
            ids += encoded
            weights += [weight] * len(encoded)
        return _Asked(ids, prompt, weights, number)


@dataclass(frozen=True, slots=True)
class _Asked:
    ids: list[int]
    prompt: int
    """Tokens before the answer."""
    weights: list[float]
    asked: int


def _answer(spans: tuple[tuple[int, int], ...], course: Course) -> list[tuple[str, float]]:
    pieces: list[tuple[str, float]] = [('{"events": [', _FORCED)]
    for number, (start, end) in enumerate(spans):
        last = end >= len(course.seconds)
        end_s = course.end_s if last else float(course.seconds[end])
        if number:
            pieces += [(",", _FREE), (" {", _FORCED)]
        else:
            pieces.append(("{", _FREE))
        pieces += [
            ('"start": ', _FORCED),
            (f"{course.seconds[start]:.1f}", _FREE),
            (', "end": ', _FORCED),
            (f"{end_s:.1f}", _FREE),
            ("}", _FORCED),
        ]
    return [*pieces, ("]", _FREE), ("}<|im_end|>", _FORCED)]


def _absent(rng: np.random.Generator, present: tuple[int, ...]) -> int:
    """A thing that the cast lacks, mostly one that shares colour or shape with a member."""
    while True:
        number = int(rng.integers(len(CLASSES)))
        if rng.uniform() < 0.75:
            near = int(rng.choice(present))
            number = (
                near // 6 * 6 + number % 6 if rng.uniform() < 0.5 else number // 6 * 6 + near % 6
            )
        if number not in present:
            return number


def _pick_features(
    rng: np.random.Generator, casts: list[FeatureCast], courses: list[Course]
) -> list[Tensor]:
    levels: list[list[Tensor]] = [[] for _ in casts[0][2]]
    for (_, _, features), course in zip(casts, courses, strict=True):
        variants = torch.from_numpy(rng.integers(0, features[0].shape[1], len(course.subsets)))
        subsets = torch.from_numpy(course.subsets)
        for level, kept in enumerate(features):
            levels[level].append(kept[subsets, variants].flatten(0, 1))
    return [torch.cat(level).float() for level in levels]


def _traits(classes: tuple[int, ...], course: Course) -> Tensor:
    num = len(CLASSES)
    traits = torch.zeros(len(course.subsets), NUM_TRAITS)
    for number, spans in zip(classes, course.spans, strict=True):
        for returns, (start, end) in enumerate(spans):
            traits[start:end, number] = 1
            if end < len(traits):
                traits[end, num + number] = 1
            traits[start, (2 + returns) * num + number] = 1
    return traits


def _clocks(seconds: npt.NDArray[np.float64]) -> Tensor:
    tenths = [round(float(timestamp_text(s)[1:-9]) * 10) for s in seconds]
    return torch.tensor([[t // 1000 % 100, t // 10 % 100, t % 10] for t in tenths])
