"""Checkpoint folder → does its chat template make it think before it answers? Imports no torch.

The template is read as text and never run: it is a program, and comes from outside.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError

THINK, END_THINK = "<think>", "</think>"
_OPEN = re.compile(rf"{THINK}(?!(?:\\n|\s)*{END_THINK})")
"""A thought that is begun; templates that can switch thinking off close an empty one at once."""


def asks_to_think(folder: Path) -> bool:
    """Whether the generation prompt opens a thought. Raises ConfigError for an unreadable file."""
    _, mentioned, generation_prompt = _read_template(folder).rpartition("add_generation_prompt")
    return bool(mentioned) and _OPEN.search(generation_prompt) is not None


def _read_template(folder: Path) -> str:
    """The chat template, from the first of the files that holds one; empty where none does."""
    plain = folder / "chat_template.jinja"
    if plain.is_file():
        return _read_text(plain)
    for path in (folder / "chat_template.json", folder / "tokenizer_config.json"):
        if path.is_file() and (template := _template_of(path)):
            return template
    return ""


def _template_of(path: Path) -> str:
    try:
        found: Any = json.loads(_read_text(path))["chat_template"]
    except KeyError:
        return ""
    except (ValueError, TypeError):
        raise ConfigError(f"{path} is no JSON object; download the checkpoint again.") from None
    if isinstance(found, list):  # several, by name
        named = {str(e.get("name")): e.get("template") for e in found if isinstance(e, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else ""


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path} cannot be read; download the checkpoint again.") from None
