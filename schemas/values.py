"""Values of the job file as people write them: 256k tokens, 20g bytes, 00:10:00, names, options.

Each is read once, here, and refused with what to write instead.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from schemas.errors import InputError
from schemas.time import clock_to_seconds

_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmM]?)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)")
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(k|m|frames|minutes|min)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}


def _read_count(value: object) -> object:
    """`256k` → 262144, `1m` → 1048576; numbers pass through."""
    if not isinstance(value, str):
        return value
    match = _COUNT.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"{value!r} is not a number of tokens; write 262144, 256k or 1m")
    return int(Fraction(match[1]) * _UNITS[match[2].lower()])


def _read_moment(value: object) -> object:
    """A time in the job file: seconds or a clock text. Kept as text, exact."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{value!r} is not a time; write seconds, mm:ss or hh:mm:ss")
    try:
        clock_to_seconds(str(value))
    except InputError as error:
        raise ValueError(error.message) from None
    return str(value)


def _read_option(value: object) -> object:
    """One option; YAML makes yes and no, and numbers, something else than text."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text; put the option in quotes")
    if not value.strip() or len(value) > 200:
        raise ValueError("an option has 1 to 200 characters, not all of them blank")
    return value


def _check_options(options: tuple[str, ...]) -> tuple[str, ...]:
    if not 2 <= len(options) <= 64:
        raise ValueError(f"{len(options)} options were given; write 2 to 64")
    if twice := [option for option in options if options.count(option) > 1]:
        raise ValueError(f"option {twice[0]!r} is given twice; write each once")
    return options


MAX_WINDOWS = 1000


def _read_size(value: object) -> object:
    """`20g` → bytes; numbers pass through."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"{value!r} is not a size; write bytes, 500m or 20g")
    return int(Fraction(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))


def _read_windows(value: object) -> object:
    """A number of windows, or `auto`."""
    if value == "auto" or (type(value) is int and 1 <= value <= MAX_WINDOWS):
        return value
    raise ValueError(f"{value!r} is no number of windows; write 1 to {MAX_WINDOWS}, or auto")


def _read_length(value: object) -> object:
    """How long a haystack is; kept as text, because its unit matters."""
    if isinstance(value, bool) or _LENGTH.fullmatch(str(value).strip()) is None:
        raise ValueError(
            f"{value!r} is no length; write tokens (32k, 1m), `600 frames` or `10 minutes`"
        )
    return str(value).strip().lower()


def length_of(text: str) -> tuple[Literal["tokens", "frames", "minutes"], Fraction]:
    """What a length says: its unit and how many."""
    match = _LENGTH.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no length")
    count, unit = Fraction(match[1]), (match[2] or "").lower()
    if unit == "frames":
        return "frames", count
    if unit.startswith("min"):
        return "minutes", count
    return "tokens", count * _UNITS[unit]


Tokens = Annotated[int, BeforeValidator(_read_count), Field(gt=0)]
Windows = Annotated[int | Literal["auto"], BeforeValidator(_read_windows)]
Length = Annotated[str, BeforeValidator(_read_length)]
Size = Annotated[int, BeforeValidator(_read_size), Field(gt=0)]
Moment = Annotated[str, BeforeValidator(_read_moment)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")]
Option = Annotated[str, BeforeValidator(_read_option), Field(min_length=1, max_length=200)]
Options = Annotated[
    tuple[Option, ...],
    AfterValidator(_check_options),
    Field(json_schema_extra={"minItems": 2, "maxItems": 64, "uniqueItems": True}),
]
