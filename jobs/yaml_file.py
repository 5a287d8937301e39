"""YAML files as data, their mistakes as sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from schemas.errors import ConfigError


def read_yaml(path: str, what: str) -> Any:
    """What a file says. Raises ConfigError where it cannot be read or is no YAML."""
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise ConfigError(f"{what} file {path} cannot be read ({why}); check the path.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{what} file {path} is not YAML{line}; mend it there.") from None
