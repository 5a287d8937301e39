"""The next nano's tokenizer: as the first one's, with the wording of `ask` questions as tokens."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from pipeline.lettering import ALPHABET
from pipeline.needles import ASKS, NONE, Kind
from recipes.nano import tokenizer as first
from recipes.nano.next.shape import CONTEXT

BEFORE, TO = "\nThe video runs from ", " to "
FIND, FIND_CLOSE, EVENTS, SPAN_START, SPAN_END = first.PHRASES[1:]
ANSWER, CLOSE = '{"answer": "', '"}'
_AFTER = " Answer in JSON."


def _split(kind: Kind) -> tuple[str, str]:
    """What stands before and behind the one thing that is filled in."""
    text = ASKS[kind]
    opening = text.index("{")
    closing = text.index("}")
    return " seconds. " + text[:opening], text[closing + 1 :] + _AFTER


OPENINGS: dict[Kind, str] = {kind: _split(kind)[0] for kind in ASKS}
CLOSINGS: dict[Kind, str] = {kind: _split(kind)[1] for kind in ASKS}
PHRASES = tuple(dict.fromkeys([TO, *OPENINGS.values(), *CLOSINGS.values(), ANSWER, CLOSE, NONE]))


def build() -> Tokenizer:
    """The corpus is fixed, so the result is too."""
    tokenizer = first.build(PHRASES)
    for letter in ALPHABET:
        if len(tokenizer.encode(letter, add_special_tokens=False).ids) != 1:
            raise ValueError(f"letter {letter} should be one token")
    return tokenizer


def save(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    first.save(folder, build(), CONTEXT)
