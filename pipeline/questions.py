"""Step 3b: queries + span → Questions.

Promises the exact text a checkpoint is asked, pinned by a test: nano was trained on these words and
the larger checkpoints are asked the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from schemas.job import QuerySpec
from schemas.ports import EventField, Question
from schemas.time import TimeSpan

_SPAN = "\nThe video runs from {start:.1f} to {end:.1f} seconds. "
_FIND = (
    "Find every time span in which this is visible: {find}. Answer in JSON with the start and end "
    "of each span in seconds, in order of time, or an empty list."
)
_FIELDS = " For each span also give {fields}."
_ASK = "{ask} Answer in JSON."


def build_questions(queries: Sequence[QuerySpec], span: TimeSpan) -> list[Question]:
    """One question per query, told where the clip begins and ends."""
    return [_build(query, span) for query in queries]


def _build(query: QuerySpec, span: TimeSpan) -> Question:
    text = _SPAN.format(start=float(span.start_s), end=float(span.end_s))
    fields = tuple(
        EventField(name, () if form == "string" else tuple(form))
        for name, form in query.fields.items()
    )
    if query.find is not None:
        text += _FIND.format(find=query.find.strip().rstrip("."))
        if fields:
            text += _FIELDS.format(fields=", ".join(_describe(field) for field in fields))
    else:
        text += _ASK.format(ask=(query.ask or "").strip())
    form = "events" if query.find is not None else "text"
    return Question(query.id, text, form, fields, query.max_answer_tokens)  # type: ignore[arg-type]


def _describe(field: EventField) -> str:
    return f"{field.name} ({' or '.join(field.options)})" if field.options else field.name


def prompt_sha256(question: Question) -> str:
    """Names the exact prompt text of a row, hex."""
    return hashlib.sha256(question.text.encode()).hexdigest()
