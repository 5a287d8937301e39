"""Question → grammar: the exact form its answer must have, enforced token by token."""

from __future__ import annotations

import json

from schemas.ports import EventField, Question

_TIME = r"/(0|[1-9][0-9]{0,5})\.[0-9]/"
"""Seconds with one decimal, as the timestamps in the prompt are written."""
_TEXT = r'/"([^"\\\x00-\x1f]|\\["\\\/bfnrt]){0,200}"/'
_LONG_TEXT = r'/"([^"\\\x00-\x1f]|\\["\\\/bfnrt])*"/'


def build_grammar(question: Question) -> str:
    """The answer's grammar in Lark form: separators as `json.dumps` writes them."""
    if question.form == "text":
        return f'start: "{{\\"answer\\": " ANSWER "}}"\nANSWER: {_LONG_TEXT}\n'
    extra = "".join(f" {_key(field)} {_rule(field)}" for field in question.fields)
    lines = [
        'start: "{\\"events\\": [" (event (", " event)*)? "]}"',
        f'event: "{{\\"start\\": " TIME ", \\"end\\": " TIME{extra} "}}"',
        f"TIME: {_TIME}",
    ]
    lines += [f"{_rule(field)}: {_choices(field)}" for field in question.fields]
    return "\n".join(lines) + "\n"


def _rule(field: EventField) -> str:
    return "FIELD_" + field.name.encode().hex().upper()


def _choices(field: EventField) -> str:
    if not field.options:
        return _TEXT
    return " | ".join(_literal(json.dumps(option, ensure_ascii=False)) for option in field.options)


def _literal(text: str) -> str:
    """`text` as a Lark string, which takes every character raw but the controls."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(field: EventField) -> str:
    return _literal(f', "{field.name}": ')
