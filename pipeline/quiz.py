"""A pass of the needle evaluation → what is asked at each of its lengths, controls included.

*What* is asked by what stands beside the needle, *when* by what it shows. Controls ask on the bare
haystack, ask for what nobody shows, and ask with a scrambled name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.cast import Cast, Role
from pipeline.grid import Cell, Pass
from pipeline.needles import NONE, ask_for
from schemas.job import QuerySpec
from schemas.needle import NeedleSpec, OwnNeedle

Control = Literal["", "no_needle", "other_needle", "scrambled"]
Topic = Literal["what", "when"]
ANSWER_TOKENS = 16
SPAN_TOKENS = 96


@dataclass(frozen=True, slots=True)
class Asked:
    """One question with what is known about it."""

    query: QuerySpec
    rung: int
    needle: str
    """Kind or name."""
    number: int | None
    """Which needle of the pass it is about; None: none of them."""
    depth: float | None
    control: Control
    topic: Topic
    expected: str
    """The right answer to *what*; NONE where nothing is to be found; empty: see the truth."""


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a question is about."""

    cell: Cell
    needle: str
    own: OwnNeedle | None
    role: Role


def quiz_of(
    spec: NeedleSpec, cast: Cast, own: Pass, all_passes: Sequence[Pass]
) -> tuple[Asked, ...]:
    """Everything asked in one pass. `all_passes` are those of its haystack: on the bare one all of
    their questions are asked."""
    if own.starts:
        return tuple(_of_needles(spec, cast, own))
    made: list[Asked] = []
    for other in all_passes:
        roles = cast.roles(other)
        for cell in other.cells:
            subject = _subject(spec, other, cell, roles[cell.needle])
            made += list(_both(spec, subject, None, "no_needle", f"p{len(made)}"))
    return tuple(made)


def _of_needles(spec: NeedleSpec, cast: Cast, own: Pass) -> Iterator[Asked]:
    roles = cast.roles(own)
    for at, cell in enumerate(own.cells):
        subject = _subject(spec, own, cell, roles[cell.needle])
        yield from _both(spec, subject, cell.needle, "", f"c{at}")
        if not spec.controls or subject.own is not None:
            continue
        other = _Subject(cell, subject.needle, None, cast.understudy(own, cell.needle))
        yield from _both(spec, other, None, "other_needle", f"c{at}")
        mixed = Role(cast.scrambled(own, cell.needle), other.role.thing)
        scrambled = _Subject(cell, subject.needle, None, mixed)
        for asked in _both(spec, scrambled, cell.needle, "scrambled", f"c{at}"):
            yield _about(asked, subject.role)


def _about(asked: Asked, role: Role) -> Asked:
    """A scrambled question is judged as the true one would be."""
    return replace(asked, expected=role.code if asked.topic == "what" else "")


def _subject(spec: NeedleSpec, own: Pass, cell: Cell, role: Role) -> _Subject:
    kind = spec.needles[own.kinds[cell.needle]]
    if isinstance(kind, str):
        return _Subject(cell, kind, None, role)
    return _Subject(cell, kind.name, kind, role)


def _both(
    spec: NeedleSpec, subject: _Subject, number: int | None, control: Control, name: str
) -> Iterator[Asked]:
    cell = subject.cell
    prefix = f"r{cell.rung}.{name}.{control or 'main'}"
    depth = None if control == "no_needle" else cell.depth
    for topic in ("what", "when"):
        query = _query(spec, subject, topic, f"{prefix}.{topic}")
        if query is not None:
            expected = _expected(subject, topic, is_there=number is not None)
            yield Asked(query, cell.rung, subject.needle, number, depth, control, topic, expected)


def _expected(subject: _Subject, topic: Topic, *, is_there: bool) -> str:
    if not is_there:
        return NONE
    if topic == "when":
        return ""
    return subject.role.code if subject.own is None else subject.own.answer


def _query(spec: NeedleSpec, subject: _Subject, topic: Topic, name: str) -> QuerySpec | None:
    """The question as a job would ask it; None where there is none."""
    own = subject.own
    if topic == "what":
        if own is not None:
            return QuerySpec(id=name, ask=own.ask, max_answer_tokens=4 * ANSWER_TOKENS)
        if not subject.role.thing:
            return None
        ask = ask_for("code_with", thing=subject.role.thing)
        return QuerySpec(id=name, ask=ask, max_answer_tokens=ANSWER_TOKENS)
    shown = f"the code {subject.role.code}" if own is None else own.when
    if not shown:
        return None
    if spec.when_as == "span":
        return QuerySpec(id=name, find=shown, max_answer_tokens=SPAN_TOKENS)
    ask = ask_for("when", code=subject.role.code) if own is None else _WHEN.format(shown=shown)
    return QuerySpec(id=name, ask=ask, max_answer_tokens=ANSWER_TOKENS)


_WHEN = "At what time, in seconds, is this on screen: {shown}? Answer none if it never is."
