"""Casts and questions: who shows what, what is asked of whom, and what is expected."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from pipeline.cast import Cast
from pipeline.grid import Cell, Pass
from pipeline.needles import NONE
from pipeline.quiz import Asked, quiz_of
from schemas.needle import NeedleSpec, read_needle

SPEC = read_needle({"needles": ["code", "image"]}, where="test")
OWN = {"name": "panda", "image": "panda.png", "ask": "Which animal is shown?", "answer": "a panda"}


def single(start: int = 40, kind: int = 0) -> Pass:
    return Pass(0, (start,), (kind,), (0, 1), (Cell(0, 0.5, 0), Cell(1, 0.2, 0)))


def together(count: int = 11) -> Pass:
    cells = tuple(Cell(0, k / (count - 1), k) for k in range(count))
    return Pass(0, tuple(50 * k for k in range(count)), (0,) * count, (0,), cells)


def differ(one: str, other: str) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


@given(st.integers(0, 1000), st.integers(0, 5), st.integers(0, 12))
def test_a_cast_is_of_different_people(seed: int, haystack: int, distractors: int) -> None:
    cast = Cast.draw(seed, haystack, distractors)
    assert cast == Cast.draw(seed, haystack, distractors)
    own = together()
    roles = cast.roles(own)
    codes = [role.code for role in roles]
    assert len({*codes, *cast.distractors}) == len(codes) + distractors
    assert len({role.thing for role in roles}) == len(roles)
    assert not {role.thing for role in roles} & set(cast.others)
    for code in codes if distractors else []:
        assert min(differ(code, other) for other in cast.distractors) == 1
    for number in range(len(roles)):
        nobody = cast.understudy(own, number)
        assert nobody.code not in {*codes, *cast.distractors}
        assert nobody.thing not in {role.thing for role in roles}
        assert differ(nobody.code, codes[number]) == 1
        assert cast.scrambled(own, number) not in {*codes, *cast.distractors}


def test_each_pass_has_roles_of_its_own() -> None:
    cast = Cast.draw(0, 0, 4)
    assert cast.roles(single(40)) != cast.roles(single(48))
    assert cast.roles(single(40, 0)) != cast.roles(single(40, 1))


def by_control(asked: tuple[Asked, ...]) -> dict[str, list[Asked]]:
    found: dict[str, list[Asked]] = {}
    for one in asked:
        found.setdefault(one.control, []).append(one)
    return found


def test_a_needle_is_asked_for_with_its_controls() -> None:
    cast, own = Cast.draw(3, 0, 4), single()
    (role,) = cast.roles(own)
    asked = quiz_of(SPEC, cast, own, ())
    groups = by_control(asked)
    assert {name: len(rows) for name, rows in groups.items()} == {
        "": 4,
        "other_needle": 4,
        "scrambled": 4,
    }
    assert len({one.query.id for one in asked}) == 12
    what, when = groups[""][:2]
    assert role.thing in (what.query.ask or "")
    assert what.expected == role.code
    assert role.code in (when.query.ask or "")
    assert role.code not in (what.query.ask or "")
    assert (when.expected, when.number, when.depth) == ("", 0, 0.5)
    for one in groups["other_needle"]:
        assert one.expected == NONE
        assert one.number is None
        assert role.code not in (one.query.ask or "")
        assert role.thing not in (one.query.ask or "")
    for one in groups["scrambled"]:
        assert one.number == 0
        assert role.code not in (one.query.ask or "")
        assert one.expected == (role.code if one.topic == "what" else "")


def test_the_bare_haystack_is_asked_everything_and_holds_nothing() -> None:
    cast, passes = Cast.draw(3, 0, 4), (single(40), single(48, 1))
    bare = Pass(0, (), (), (0, 1), ())
    asked = quiz_of(SPEC, cast, bare, (bare, *passes))
    assert {one.control for one in asked} == {"no_needle"}
    assert {one.expected for one in asked} == {NONE}
    asks = {one.query.ask for one in asked}
    for own in passes:
        main = by_control(quiz_of(SPEC, cast, own, ()))[""]
        assert {one.query.ask for one in main} <= asks
    assert len({one.query.id for one in asked}) == len(asked) == 8


def test_without_controls_only_needles_are_asked_for() -> None:
    spec = SPEC.model_copy(update={"controls": False})
    asked = quiz_of(spec, Cast.draw(3, 0, 4), together(), ())
    assert set(by_control(asked)) == {""}
    assert len(asked) == 22
    assert {one.number for one in asked} == set(range(11))


def own_spec(**more: str) -> NeedleSpec:
    return read_needle({"needles": [{**OWN, **more}]}, where="test")


def test_ones_own_needle_is_asked_in_ones_own_words() -> None:
    cast = Cast.draw(0, 0, 0)
    (what,) = quiz_of(own_spec(), cast, together(1 + 1), ())[:1]
    assert (what.query.ask, what.expected) == ("Which animal is shown?", "a panda")
    asked = quiz_of(own_spec(when="a picture of a panda"), cast, single(), ())
    assert [one.topic for one in asked] == ["what", "when"] * 2
    assert re.search("At what time.*a picture of a panda", asked[1].query.ask or "")


def test_spans_are_asked_for_by_finding() -> None:
    spec = SPEC.model_copy(update={"when_as": "span"})
    asked = quiz_of(spec, Cast.draw(3, 0, 4), single(), ())
    whens = [one for one in asked if one.topic == "when"]
    assert whens
    assert all((one.query.find or "").startswith("the code ") for one in whens)
