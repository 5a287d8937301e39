"""Units and workers as plain state: one at a time, two attempts, no innocent blamed."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from jobs.placement import Placement


def test_each_worker_gets_one_item_in_order() -> None:
    places = Placement(3)
    first = places.start(["b", "a"])
    assert [(run.number, run.worker) for run in first] == [(0, "a"), (1, "b")]
    assert places.start(["a", "b"]) == []
    places.end(first[0].id)
    (third,) = places.start(["a", "b"])
    assert (third.number, third.worker) == (2, "a")


def test_a_suspect_goes_last_and_is_given_up_after_two_attempts() -> None:
    places = Placement(3)
    (run,) = places.start(["a"])
    places.begin(run.id, 0.0)
    assert places.worker_died(run)
    order = []
    while not places.is_done:
        (run,) = places.start(["a"])
        order.append(run.number)
        if run.number == 0:
            assert run.attempt == 2
            places.begin(run.id, 0.0)
            assert not places.worker_died(run)
        else:
            places.end(run.id)
    assert order == [1, 2, 0]


def test_who_had_not_begun_is_excused_once() -> None:
    places = Placement(1)
    attempts = []
    alive = True
    while alive:
        (run,) = places.start(["a"])
        attempts.append(run.attempt)
        alive = places.worker_died(run)
    assert attempts == [1, 1, 2]


def test_a_lost_scheduler_blames_nobody() -> None:
    places = Placement(4)
    places.start(["a", "b"])
    places.take_back_all()
    again = places.start(["c", "d"])
    assert [(run.number, run.attempt) for run in again] == [(0, 1), (1, 1)]


def test_overdue_and_lost_are_told_apart() -> None:
    places = Placement(2)
    early, late = places.start(["a"]) + places.start(["a", "b"])
    places.begin(early.id, 0.0)
    places.begin(late.id, 5.0)
    assert places.overdue(10.5, 10.0) == [early]
    assert places.lost({"a"}) == [late]


@given(
    st.integers(0, 12),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from("end begun early back".split()))),
)
def test_every_item_ends_once_whatever_happens(count: int, story: list[tuple[int, str]]) -> None:
    places, ends, blamed = Placement(count), Counter[int](), Counter[int]()
    workers = [f"w{number}" for number in range(3)]

    def step(pick: int, what: str) -> None:
        places.start(workers)
        running = places.running
        assert len({run.worker for run in running}) == len(running)
        if what == "back":
            places.take_back_all()
        elif running:
            run = running[pick % len(running)]
            if what == "end":
                assert places.end(run.id) == run
                assert places.end(run.id) is None
                ends[run.number] += 1
            else:
                if what == "begun":
                    places.begin(run.id, 0.0)
                    blamed[run.number] += 1
                ends[run.number] += not places.worker_died(run)

    for pick, what in story:
        step(pick, what)
    while not places.is_done:
        step(0, "end")
    assert ends == Counter(range(count))
    assert max(blamed.values(), default=0) <= 2
