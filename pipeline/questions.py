"""Step 3b: queries + span → Questions.

Promises the exact text a checkpoint is asked, pinned by a test: nano was trained on these words and
the larger checkpoints are asked the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from schemas.job import QuerySpec
from schemas.ports import EventField, Form, Question
from schemas.time import TimeSpan

_SPAN = "\nThe video runs from {start:.1f} to {end:.1f} seconds. "
_FIND = (
    "Find every time span in which this is visible: {find}. Answer in JSON with the start and end "
    "of each span in seconds, in order of time, or an empty list."
)
_FIELDS = " For each span also give {fields}."
_ASK = "{ask} Answer in JSON."
_CHOICE = "{ask} Answer in JSON with one of these: {options}."


def build_questions(queries: Sequence[QuerySpec], span: TimeSpan) -> list[Question]:
    """One question per query, told where the clip begins and ends."""
    return [_build(query, span) for query in queries]


def _build(query: QuerySpec, span: TimeSpan) -> Question:
    words = _SPAN.format(start=float(span.start_s), end=float(span.end_s))
    fields = tuple(
        EventField(name, () if form == "string" else tuple(form))
        for name, form in query.fields.items()
    )
    form, asked = _ask(query, fields)
    return Question(
        query.id,
        words + asked,
        form,
        fields,
        max_tokens=query.max_answer_tokens,
        options=query.options,
        think_tokens=query.max_think_tokens,
    )


def _ask(query: QuerySpec, fields: tuple[EventField, ...]) -> tuple[Form, str]:
    """The form of the answer, and the words that ask for it."""
    if query.find is not None:
        asked = _FIND.format(find=query.find.strip().rstrip("."))
        if fields:
            asked += _FIELDS.format(fields=", ".join(_describe(field) for field in fields))
        return "events", asked
    ask = (query.ask or "").strip()
    if query.options:
        # Quoted as in the answer, so that a comma inside an option does not part it.
        listed = ", ".join(json.dumps(option, ensure_ascii=False) for option in query.options)
        return "choice", _CHOICE.format(ask=ask, options=listed)
    return "text", _ASK.format(ask=ask)


def _describe(field: EventField) -> str:
    return f"{field.name} ({' or '.join(field.options)})" if field.options else field.name


def prompts_sha256(windows: Sequence[Sequence[Question]]) -> tuple[tuple[str, str], ...]:
    """(query id, hex) that names the exact prompt text of each row, of all windows together."""
    return tuple(
        (same[0].query_id, hashlib.sha256("\0".join(q.text for q in same).encode()).hexdigest())
        for same in zip(*windows, strict=True)
    )
