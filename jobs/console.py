"""What the verbs of the command line share: where data goes, and where messages go."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def err() -> Console:
    """Messages for people."""
    return Console(stderr=True, highlight=False)


def out() -> Console:
    """Tables of data."""
    console = Console(highlight=False)
    # A pipe has no width; a table cut to 80 columns would lose data.
    return console if console.is_terminal else Console(highlight=False, width=200)


def print_line(text: str) -> None:
    """One line of data, as it is."""
    sys.stdout.write(text + "\n")


def say(text: str) -> None:
    """One sentence for people, as it is."""
    err().print(text, markup=False, soft_wrap=True)
