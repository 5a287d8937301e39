"""Step 2c: lessons about spans. Questions for all times at which a thing is visible.

An answer is a chain. The token that ends a pair knows what has come or gone since the pair before
(layer 2), and when the same thing went or came last (layer 3). So the next start is the coming that
follows the end said last, and an end is the going that follows its start: content to be matched,
however many events there are, and nothing has to be counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from recipes.nano.lessons import absent_class
from recipes.nano.next.lessons import (
    CHANGED,
    COMING,
    FIRST_COUNTS,
    GOING,
    LETTERS,
    NAMED,
    NOTHING,
    SEEN,
    THING,
    UNLINKED,
    Encode,
    LessonMaker,
    Sheet,
    clock_classes,
)
from recipes.nano.next.shape import ID
from recipes.nano.next.span_courses import SpanCourse
from recipes.nano.next.tokenizer import BEFORE, EVENTS, FIND, FIND_CLOSE, SPAN_END, SPAN_START, TO
from recipes.nano.pictures import CLASSES

FORCED = 0.1
"""Weight of tokens that the grammar leaves no choice of."""
FIND_HEADS, OTHER_HEADS = (2, 3), (0, 1)
"""Heads of the last layer that match a coming or going; the others look at `NOTHING`."""
PHRASES = (("a {}", 0.7), ("{}", 0.15), ("the {}", 0.15))


@dataclass(frozen=True, slots=True)
class _Event:
    """One event: columns of its coming and its going, and their times."""

    coming: int
    going: int | None
    """None: it lasts to the end of the video."""
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class _Edges:
    """What comes and goes with each pair, and the pair before in which it went or came last."""

    comes: tuple[dict[int, int | None], ...]
    """Of each pair: thing → pair in which it went last, None where it never was."""
    goes: tuple[dict[int, int], ...]
    """Of each pair: thing → pair in which it came."""

    @staticmethod
    def of(drawn: SpanCourse) -> _Edges:
        count = len(drawn.course.pairs)
        comes: list[dict[int, int | None]] = [{} for _ in range(count)]
        goes: list[dict[int, int]] = [{} for _ in range(count)]
        for thing, spans in drawn.spans.items():
            last: int | None = None
            for start, end in spans:
                comes[start][thing] = last
                if end < count:
                    goes[end][thing] = start
                    last = end
        return _Edges(tuple(comes), tuple(goes))


def _events(drawn: SpanCourse, ends: list[int], thing: int) -> list[_Event]:
    """All events of a thing, in order."""
    seconds, events = drawn.course.seconds, []
    for start, end in drawn.spans[thing]:
        is_last = end >= len(ends)
        end_s = drawn.course.end_s if is_last else float(seconds[end])
        going = None if is_last else ends[end]
        events.append(_Event(ends[start], going, float(seconds[start]), end_s))
    return events


def _teach_end(
    rng: np.random.Generator,
    sheet: Sheet,
    drawn: SpanCourse,
    edges: _Edges,
    number: int,
    pads: dict[int, int],
    ends: list[int],
) -> None:
    """The token that ends a pair gathers what the pair shows, what has come and gone, and since
    when."""
    shown, own = drawn.course.pairs[number], ends[number]
    seen = np.zeros(len(CLASSES), dtype=int)
    seen[list(shown.things)] = 1
    sheet.knows.append((own, SEEN, tuple(seen.tolist())))
    sheet.looks.append((0, 0, own, sorted({pads[at] for at in shown.things_at}) or [NOTHING]))
    if rng.uniform() < 0.3:
        sheet.looks += [(0, head, own, [NOTHING]) for head in (1, 2, 3)]
    if number in drawn.hidden:
        sheet.hidden.append((own, ends[number + 1] if number + 1 < len(ends) else None))
        return
    before = [ends[number - 1]] if number else [NOTHING]
    sheet.looks += [(1, 0, own, before), (1, 1, own, list(pads.values()))]
    sheet.exempt.append((own, before))
    comes, goes = edges.comes[number], edges.goes[number]
    changed = np.zeros(2 * len(CLASSES), dtype=int)
    changed[[*comes, *(len(CLASSES) + thing for thing in goes)]] = 1
    sheet.knows.append((own, CHANGED, tuple(changed.tolist())))
    if comes or goes:
        sheet.holds[own] = LETTERS
    for head, what, since in ((0, COMING, comes), (1, GOING, goes)):
        pairs = [pair for pair in since.values() if pair is not None]
        columns = sorted({ends[pair] for pair in pairs}) or [NOTHING]
        if since or rng.uniform() < 0.3:
            sheet.looks.append((2, head, own, columns))
            sheet.exempt.append((own, columns))
        if len(since) == 1:
            classes = _link(float(drawn.course.seconds[pairs[0]]) if pairs else None)
            sheet.knows.append((own, what, classes))


def _link(seconds: float | None) -> tuple[int, ...]:
    return UNLINKED if seconds is None else clock_classes(seconds)


@dataclass(frozen=True, slots=True)
class _Step:
    """A token of an answer that is free; columns count from the question's first token."""

    row: int
    """The token that is followed by it."""
    lead: int
    """The token that knows what is looked for: `row`, or the one before a time's pieces."""
    backs: tuple[int, ...]
    """From `lead`: pieces of the time said last; empty at the first."""
    what: int
    """COMING or GOING."""
    since_s: float | None
    target: int | None
    """Column of the sheet; None: no place tells it."""


@dataclass(slots=True)
class _Answer:
    """A question with its answer."""

    ids: list[int]
    steps: list[_Step] = field(default_factory=list)

    def say(
        self, encode: Encode, events: list[_Event], end_of_video: int, close: list[int]
    ) -> None:
        """All events in the order of time, as the grammar wants them."""
        last_s: float | None = None
        self.ids += encode(EVENTS)
        for number, event in enumerate(events):
            self._decide(number, last_s, event.coming)
            self.ids += encode(", {" if number else "{")
            self.ids += encode(SPAN_START)
            backs = (5, 7, 8) if number else ()
            self._time(encode, event.start_s, backs, COMING, last_s, event.coming)
            self.ids += encode(SPAN_END)
            target = end_of_video if event.going is None else event.going
            self._time(encode, event.end_s, (1, 3, 4), GOING, event.start_s, target)
            self.ids += encode("}")
            last_s = event.end_s
        self._decide(len(events), last_s, None)
        self.ids += close

    def _decide(self, number: int, since_s: float | None, target: int | None) -> None:
        row = len(self.ids) - 1
        backs = (1, 3, 4) if number else ()
        self.steps.append(_Step(row, row, backs, COMING, since_s, target))

    def _time(
        self,
        encode: Encode,
        seconds: float,
        backs: tuple[int, ...],
        what: int,
        since_s: float | None,
        target: int,
    ) -> None:
        lead = len(self.ids) - 1
        for piece in encode(f"{seconds:.1f}"):
            self.steps.append(_Step(len(self.ids) - 1, lead, backs, what, since_s, target))
            self.ids.append(piece)


class SpanLessons:
    """Draws rows of `find` questions."""

    def __init__(self, maker: LessonMaker) -> None:
        self._maker = maker

    def row(
        self,
        rng: np.random.Generator,
        drawn: SpanCourse,
        grid: tuple[int, int],
        questions: int,
        alike: Sequence[int] = (),
    ) -> Sheet:
        """A video and `questions` questions, a third of them about what is never shown. Only what
        stands behind a gap may be moved: other pairs must know the one before."""
        sheet, pads, at = self._maker.video(rng, drawn.course, grid, alike, drawn.hidden)
        ends = [max(own.values()) + 1 for own in pads]
        edges = _Edges.of(drawn)
        for number, own in enumerate(pads):
            _teach_end(rng, sheet, drawn, edges, number, own, ends)
        shown = [int(thing) for thing in rng.permutation(list(drawn.spans))]
        for number in range(questions):
            is_shown = number % 3 != 2 and bool(shown)
            thing = shown.pop() if is_shown else absent_class(rng, tuple(drawn.spans))
            events = _events(drawn, ends, thing) if is_shown else []
            self._ask(rng, sheet, drawn.course.end_s, thing, events, at, -2 - number)
        return sheet

    def _ask(
        self,
        rng: np.random.Generator,
        sheet: Sheet,
        end_s: float,
        thing: int,
        events: list[_Event],
        at: int,
        owner: int,
    ) -> None:
        encode, base = self._maker.encode, len(sheet.ids)
        phrase = str(rng.choice([p for p, _ in PHRASES], p=[odds for _, odds in PHRASES]))
        asked = encode(" " + phrase.format(CLASSES[thing]))
        opening = [*encode(BEFORE), *encode("0.0"), *encode(TO), *encode(f"{end_s:.1f}")]
        prompt = [*opening, *encode(FIND), *asked, *encode(FIND_CLOSE)]
        prompt += encode("<|im_end|>\n<|im_start|>assistant\n")
        clock = base + len(opening)
        gather = clock + 1 + len(asked)
        sheet.looks += [(0, h, clock, [clock - back]) for h, back in enumerate((1, 3, 4))]
        sheet.looks += [(0, h, gather, [gather - back]) for h, back in enumerate((1, 2))]
        sheet.knows += [(gather, what, (thing,)) for what in (NAMED, THING)]
        answer = _Answer(list(prompt))
        answer.say(encode, events, clock, [*encode("]}"), ID["<|im_end|>"]])
        sheet.say(answer.ids, at, owner)
        for k in range(len(prompt), len(answer.ids)):
            sheet.labels[base + k - 1] = answer.ids[k]
            sheet.weights[base + k - 1] = FORCED
        for step in answer.steps:
            sheet.weights[base + step.row] = 1.0
            self._teach_step(sheet, step, base, gather, thing)

    def _teach_step(self, sheet: Sheet, step: _Step, base: int, gather: int, thing: int) -> None:
        row, lead = base + step.row, base + step.lead
        columns = [NOTHING if step.target is None else step.target]
        sheet.exempt.append((row, columns))
        sheet.looks += [(0, 0, row, [row - 1]), (1, 0, row, [gather]), (1, 1, row, [lead])]
        if row == lead:
            pieces = [lead - back for back in step.backs] or [NOTHING] * 3
            sheet.looks += [(0, h, lead, [piece]) for h, piece in enumerate(pieces, start=1)]
        else:
            sheet.looks.append((0, 1, row, [row - 2]))
        last = self._maker.match_layer
        times = FIRST_COUNTS if row == lead else 1
        sheet.looks += [(last, head, row, columns) for head in FIND_HEADS] * times
        sheet.looks += [(last, head, row, [NOTHING]) for head in OTHER_HEADS]
        sheet.knows += [(row, THING, (thing,)), (row, step.what, _link(step.since_s))]
