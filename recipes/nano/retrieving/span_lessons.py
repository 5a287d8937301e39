"""Step 2b: lessons about spans. Questions for all times at which a thing is visible.

Five tokens behind a pair's pictures watch it, each for the things of its group: two that come or go
at once would be one vector in one token. A watcher gathers what the pair shows of its group (layer
1), knows what has come or gone since the pair before (layer 2), and, of what comes, when it had
last gone, of what goes, when it had come (layer 3). These times name the events: an answer that has
said an end looks for the coming of what had gone then, and one that has said a start for the going
of what had come then.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recipes.nano.codes import CLASSES
from recipes.nano.retrieving import befores, links
from recipes.nano.retrieving.asked import clock_flags
from recipes.nano.retrieving.courses import Course
from recipes.nano.retrieving.groups import group_of, part_of
from recipes.nano.retrieving.lessons import FIRST_COUNTS, LessonMaker
from recipes.nano.retrieving.sheet import (
    CHANGED,
    COMING,
    EARLIER,
    GOING,
    LETTERS,
    NAMED,
    NEXT_COMING,
    NEXT_GOING,
    NOTHING,
    SEEN,
    THING,
    Sheet,
)
from recipes.nano.retrieving.span_answers import Answer, Event, Step
from recipes.nano.retrieving.span_courses import SpanCourse, absent_class
from recipes.nano.shape import HEADS, ID
from recipes.nano.tokenizer import BEFORE, FIND, FIND_CLOSE, TO

FORCED = 0.1
"""Weight of tokens that the grammar leaves no choice of."""
HEAD_OF = {NEXT_COMING: 0, NEXT_GOING: 1}
"""The last layer's head that matches a coming or a going; the others look at `NOTHING`. A key holds
all that its head matches within one norm: things often come as another goes. These two read times
already, of codes that match by their letters; the other two read letters, which fill a head."""
RARE = 5
"""Times that what changes is told: a mean over all pairs hides the few in which something does."""
_IN_FULL = 0.9
PHRASES = (("a {}", 0.7), ("{}", 0.15), ("the {}", 0.15))


@dataclass(frozen=True, slots=True)
class _Edges:
    """What comes and goes with each pair: thing → the pair in which what comes had last gone, if it
    was there before, and in which what goes had come."""

    comes: tuple[dict[int, int | None], ...]
    goes: tuple[dict[int, int | None], ...]

    @staticmethod
    def of(drawn: SpanCourse) -> _Edges:
        count = len(drawn.course.pairs)
        comes: list[dict[int, int | None]] = [{} for _ in range(count)]
        goes: list[dict[int, int | None]] = [{} for _ in range(count)]
        for thing, spans in drawn.spans.items():
            gone = None
            for start, end in spans:
                comes[start][thing], gone = gone, end
                if end < count:
                    goes[end][thing] = start
        return _Edges(tuple(comes), tuple(goes))


@dataclass(frozen=True, slots=True)
class _Watch:
    """The watchers of a group: one behind each pair, but for the last, which only the first group's
    token ends."""

    group: int
    columns: tuple[int, ...]
    hidden: dict[int, int | None]
    """Pairs whose watcher lacks the pair or the one before: the only pair whose watcher sees it."""


def _watches(drawn: SpanCourse, pads: list[dict[int, int]]) -> list[_Watch]:
    ends = [max(own.values()) + 1 for own in pads]
    count = len(ends)
    behind_gap = {gap: gap + 1 if gap + 1 < count else None for gap in drawn.hidden}
    watches = [_Watch(0, tuple(ends), behind_gap)]
    # Behind a pair that a gap follows these stand on its other side.
    closed: dict[int, int | None] = dict.fromkeys((gap - 1 for gap in drawn.hidden), None)
    closed |= {gap: gap + 1 if gap + 2 < count else None for gap in drawn.hidden if gap + 1 < count}
    firsts = [min(own.values()) for own in pads[1:]]
    for group, back in ((1, None), (2, 4), (3, 2), (4, 1)):
        columns = [
            end + 1 if back is None else first - back
            for end, first in zip(ends, firsts, strict=False)
        ]
        watches.append(_Watch(group, tuple(columns), closed))
    return watches


def _events(drawn: SpanCourse, watch: _Watch, thing: int) -> list[Event]:
    """All events of a thing, in order."""
    seconds, events = drawn.course.seconds, []
    for start, end in drawn.spans[thing]:
        is_last = end >= len(seconds)
        end_s = drawn.course.end_s if is_last else float(seconds[end])
        going = None if is_last else watch.columns[end]
        events.append(Event(watch.columns[start], going, float(seconds[start]), end_s))
    return events


def _teach_watcher(
    sheet: Sheet,
    drawn: SpanCourse,
    edges: _Edges,
    watch: _Watch,
    number: int,
    pads: dict[int, int],
    tokens: int,
) -> None:
    """A watcher gathers what the pair shows of its group, and knows what has come and gone, when
    what comes had gone, and when what goes had come."""
    own = watch.columns[number]
    if number in watch.hidden:
        only = watch.hidden[number]
        sheet.hidden.append((own, None if only is None else watch.columns[only]))
        if only is None:
            return
    _teach_gather(sheet, drawn.course, number, watch.group, own, pads, tokens)
    if number in watch.hidden:
        return
    before = [watch.columns[number - 1]] if number else [NOTHING]
    for head in befores.HEADS:
        sheet.looks.append((befores.LAYER, head, own, before))
        sheet.befores += [(head, is_key, own, {watch.group: 1}) for is_key in (False, True)]
    sheet.looks.append((1, 1, own, list(pads.values())))
    sheet.exempt.append((own, before))
    comes, goes = (
        {thing: pair for thing, pair in edge[number].items() if group_of(thing) == watch.group}
        for edge in (edges.comes, edges.goes)
    )
    changed = np.zeros(2 * len(CLASSES), dtype=int)
    changed[[*comes, *(len(CLASSES) + thing for thing in goes)]] = 1
    is_changed = bool(comes or goes)
    sheet.knows += [(own, CHANGED, tuple(changed.tolist()))] * (RARE if is_changed else 1)
    # In the form in which things are asked for: several of them, each as likely.
    sheet.knows += [(own, THING, (thing,)) for thing in {*comes, *goes}]
    if is_changed:
        sheet.holds[own] = LETTERS
    for head in range(HEADS):
        mine = {thing: pair for thing, pair in (comes | goes).items() if part_of(thing) == head}
        earlier = [watch.columns[pair] for pair in mine.values() if pair is not None]
        sheet.exempt.append((own, earlier or [NOTHING]))
        signs = {thing: 1 if thing in comes else -1 for thing in mine}
        opposite = {thing: -sign for thing, sign in signs.items()}
        sheet.links.append((head, False, own, {links.WATCHES_AT: 1} | signs))
        sheet.links.append((head, True, own, {links.WATCHES_AT: 1} | opposite))
    for what, edge in ((COMING, comes), (GOING, goes)):
        if len(edge) == 1:
            times_s = [float(drawn.course.seconds[k]) for k in edge.values() if k is not None]
            sheet.knows.append((own, what, clock_flags(times_s)))


def _shown(course: Course, number: int, group: int) -> set[int]:
    return {thing for thing in course.pairs[number].things if group_of(thing) == group}


def _flags(seen: set[int]) -> tuple[int, ...]:
    idle = set(range(HEADS)) - {part_of(thing) for thing in seen}
    flags = np.zeros(len(CLASSES) + HEADS, dtype=int)
    flags[[*seen, *(len(CLASSES) + head for head in idle)]] = 1
    return tuple(flags.tolist())


def _teach_gather(
    sheet: Sheet,
    course: Course,
    number: int,
    group: int,
    own: int,
    pads: dict[int, int],
    tokens: int,
) -> None:
    """A head of the first layer for each part of the group: two things that one head looks at are
    seen as half of each, and what is seen of the one depends on the other."""
    shown = course.pairs[number]
    written = {*shown.things_at, *(one.at for one in course.beside[number])}
    seen = _shown(course, number, group)
    seen_before = _shown(course, number - 1, group) if number else set()
    knows = [(own, SEEN, _flags(seen)), (own, EARLIER, _flags(seen_before))]
    is_shared = len({part_of(thing) for thing in seen}) < len(seen)
    sheet.knows += knows * (RARE if is_shared or seen_before != seen else 1)
    for head in range(HEADS):
        # Anywhere in the pair: what the head holds says where, and told at which thing to look, it
        # held that less well.
        sheet.looks.append((0, head, own, list(pads.values())))
        sheet.gathers.append((head, False, own, {group: 1}))
    sheet.exempt.append((own, list(pads.values())))
    blank = [column for at, column in pads.items() if at not in written]
    if blank:
        left_out = tokens - len(pads)
        sheet.crowds.append((own, blank, (left_out + len(blank)) / len(blank)))


def _teach_pictures(sheet: Sheet, course: Course, number: int, pads: dict[int, int]) -> None:
    """What each picture's token shows; that which shows a thing in part is left alone."""
    shown = course.pairs[number]
    held = list(zip(shown.things, shown.things_at, course.strengths[number], strict=True))
    held += [(one.thing, one.at, one.strength) for one in course.beside[number]]
    for at, column in pads.items():
        own = [(thing, strength) for thing, place, strength in held if place == at]
        for head in range(HEADS):
            strengths = [s for thing, s in own if part_of(thing) == head]
            if all(strength >= _IN_FULL for strength in strengths):
                groups = {group_of(thing): 1 for thing, _ in own if part_of(thing) == head}
                sheet.gathers.append((head, True, column, groups))


def _teach_keys(rng: np.random.Generator, sheet: Sheet, pads: list[dict[int, int]]) -> None:
    """Links look at the prompt's first token where there is no earlier event, and at no token that
    does not watch; such a token links nothing."""
    firsts = [min(own.values()) for own in pads]
    others = [first - back for first in firsts for back in (5, 3)]
    others += [int(rng.choice(list(own.values()))) for own in pads]
    others += [column for column, what in sheet.holds.items() if what == THING]
    for head in befores.HEADS:
        sheet.befores += [(head, True, NOTHING, {befores.NOTHING_AT: 1})] * len(pads)
    for head in range(HEADS):
        # One of many that are no event, and looked at by every first coming.
        sheet.links += [(head, True, NOTHING, {links.NOTHING_AT: 1})] * len(pads)
        for is_key in (True, False):
            sheet.links += [(head, is_key, column, {}) for column in others]


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
    ) -> Sheet:
        """A video and `questions` questions, a third of them about what is never shown."""
        sheet, pads, at = self._maker.video(rng, drawn.course, grid)
        edges, watches = _Edges.of(drawn), _watches(drawn, pads)
        tokens = grid[0] * grid[1]
        for watch in watches:
            for number, own in enumerate(pads[: len(watch.columns)]):
                _teach_watcher(sheet, drawn, edges, watch, number, own, tokens)
        for number, own_pads in enumerate(pads):
            _teach_pictures(sheet, drawn.course, number, own_pads)
        _teach_keys(rng, sheet, pads)
        shown = [int(thing) for thing in rng.permutation(list(drawn.spans))]
        for number in range(questions):
            is_shown = number % 3 != 2 and bool(shown)
            thing = shown.pop() if is_shown else absent_class(rng, tuple(drawn.spans))
            events = _events(drawn, watches[group_of(thing)], thing) if is_shown else []
            self._ask(rng, sheet, drawn.course.end_s, thing, events, at, -2 - number)
        return sheet

    def _ask(
        self,
        rng: np.random.Generator,
        sheet: Sheet,
        end_s: float,
        thing: int,
        events: list[Event],
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
        self._maker.teach_idle(sheet, clock, (3,))
        self._maker.teach_idle(sheet, gather, (2, 3))
        sheet.knows += [(gather, what, (thing,)) for what in (NAMED, THING)]
        answer = Answer(list(prompt))
        answer.say(encode, events, clock, [*encode("]}"), ID["<|im_end|>"]])
        sheet.say(answer.ids, at, owner)
        for k in range(len(prompt), len(answer.ids)):
            sheet.labels[base + k - 1] = answer.ids[k]
            sheet.weights[base + k - 1] = FORCED
        for column, _ in answer.said:
            # By the heads that bring a pair's time to its pictures, so that both are written alike.
            row = base + column
            sheet.looks += [(0, h, row, [row - back]) for h, back in ((3, 1), (1, 3), (2, 4))]
        said = {column for column, _ in answer.said}
        for step in answer.steps:
            sheet.weights[base + step.row] = 1.0
            begins = (0,) if step.row in said else (0, 1, 2, 3)
            self._maker.teach_idle(
                sheet, base + step.row, begins if step.row == step.lead else (2, 3)
            )
            self._maker.teach_rest(rng, sheet, base + step.row, busy=(0, 2, 3))
            self._teach_step(sheet, step, base, gather, thing)

    def _teach_step(self, sheet: Sheet, step: Step, base: int, gather: int, thing: int) -> None:
        row, lead = base + step.row, base + step.lead
        columns = [NOTHING if step.target is None else step.target]
        sheet.exempt.append((row, columns))
        said = [NOTHING if step.said is None else base + step.said[0]]
        if row != lead:
            sheet.looks += [(0, 0, row, [row - 1]), (0, 1, row, [row - 2])]
        sheet.links += [(head, False, row, {}) for head in range(HEADS)]
        sheet.looks += [(1, 0, row, [gather]), (1, 2, row, [lead])]
        sheet.looks.append((1, 3, row, said))
        last = self._maker.match_layer
        times = FIRST_COUNTS if row == lead else 1
        own = HEAD_OF[step.what]
        sheet.looks += [(last, own, row, columns)] * times
        sheet.looks += [(last, head, row, [NOTHING]) for head in range(HEADS) if head != own]
        flags = clock_flags([] if step.said is None else [step.said[1]])
        sheet.knows += [(row, THING, (thing,)), (row, step.what, flags)]
