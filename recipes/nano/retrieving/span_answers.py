"""Step 2b: answers of spans. All events in the order of time, with what tells each token."""

from __future__ import annotations

from dataclasses import dataclass, field

from recipes.nano.retrieving.sheet import NEXT_COMING, NEXT_GOING, Encode
from recipes.nano.tokenizer import EVENTS, SPAN_END, SPAN_START


@dataclass(frozen=True, slots=True)
class Event:
    """One event: columns of the watchers of its coming and its going, and their times."""

    coming: int
    going: int | None
    """None: it lasts to the end of the video."""
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """A token of an answer that is free; columns count from the question's first token."""

    row: int
    """The token that is followed by it."""
    lead: int
    """The token that knows what is looked for: `row`, or the one before a time's pieces."""
    said: tuple[int, float] | None
    """What was said last that tells which event is next, and behind which token: for a start the
    end before it, for an end its start."""
    what: int
    """NEXT_COMING or NEXT_GOING."""
    target: int | None
    """Column of the sheet; None: no place tells it."""


@dataclass(slots=True)
class Answer:
    """A question with its answer."""

    ids: list[int]
    steps: list[Step] = field(default_factory=list)
    said: list[tuple[int, float]] = field(default_factory=list)
    """Starts and ends in turn, each with the token behind it."""

    def say(self, encode: Encode, events: list[Event], end_of_video: int, close: list[int]) -> None:
        """All events in the order of time, as the grammar wants them."""
        self.ids += encode(EVENTS)
        for event in events:
            self._decide(event.coming)
            self.ids += encode(", {" if self.said else "{")
            self.ids += encode(SPAN_START)
            self._time(encode, event.start_s, NEXT_COMING, event.coming)
            self.ids += encode(SPAN_END)
            self.said.append((len(self.ids) - 1, event.start_s))
            target = end_of_video if event.going is None else event.going
            self._time(encode, event.end_s, NEXT_GOING, target)
            self.ids += encode("}")
            self.said.append((len(self.ids) - 1, event.end_s))
        self._decide(None)
        self.ids += close

    def _decide(self, target: int | None) -> None:
        row = len(self.ids) - 1
        self.steps.append(Step(row, row, self._last, NEXT_COMING, target))

    @property
    def _last(self) -> tuple[int, float] | None:
        return self.said[-1] if self.said else None

    def _time(self, encode: Encode, seconds: float, what: int, target: int) -> None:
        lead = len(self.ids) - 1
        for piece in encode(f"{seconds:.1f}"):
            self.steps.append(Step(len(self.ids) - 1, lead, self._last, what, target))
            self.ids.append(piece)
