"""Past a checkpoint's own length: whether YaRN is on for a job, and by which factor. No torch.

Positions of a video grow slower than its tokens, so the factor stays below the growth in tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.spec import CheckpointSpec
from schemas.errors import ConfigError

MOST_GROWTH = 4
"""Longest context, in lengths that the checkpoint was made for."""


@dataclass(frozen=True, slots=True)
class Yarn:
    """Positions are stretched by `factor` over a checkpoint made for `native_tokens`."""

    factor: float
    native_tokens: int


def choose_yarn(
    name: str,
    spec: CheckpointSpec,
    native_tokens: int,
    context: int | None,
    factor: float | None,
) -> tuple[Yarn | None, int]:
    """YaRN as the job needs it (None: off), and the longest sequence, in tokens, that comes of it.

    `context` and `factor` are the job's own settings. Raises ConfigError where YaRN cannot reach.
    """
    if factor is not None and not 1 < factor <= MOST_GROWTH:
        raise ConfigError(
            f"model.yarn is {factor}; write a factor above 1 and at most {MOST_GROWTH}, or leave "
            "it out."
        )
    asked = context or native_tokens
    if spec.text.rope_type != "default":
        _refuse_second_stretch(name, spec, native_tokens, asked, factor)
        return None, native_tokens
    if asked > MOST_GROWTH * native_tokens:
        raise ConfigError(
            f"model.context {asked} is more than {MOST_GROWTH} times what {name} is made for "
            f"({native_tokens}); YaRN reaches {MOST_GROWTH * native_tokens}: lower it."
        )
    if factor is None and asked <= native_tokens:
        return None, native_tokens
    chosen = factor or (2.0 if asked <= 2 * native_tokens else 3.0)
    return Yarn(chosen, native_tokens), context or int(native_tokens * chosen)


def _refuse_second_stretch(
    name: str, spec: CheckpointSpec, native_tokens: int, asked: int, factor: float | None
) -> None:
    own = f"its config stretches positions already ({spec.text.rope_type})"
    if factor is not None:
        raise ConfigError(f"model.yarn is {factor} for {name}, but {own}; leave model.yarn out.")
    if asked > native_tokens:
        raise ConfigError(
            f"model.context {asked} is more than {name} is made for ({native_tokens}), and {own}; "
            "lower it."
        )
