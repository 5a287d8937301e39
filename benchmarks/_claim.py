"""How a benchmark says what it found."""

from __future__ import annotations


def claim(name: str, value: float, goal: float, *, at_most: bool = False) -> None:
    """Print one claim line; `at_most`: the goal is a ceiling."""
    good = value <= goal if at_most else value >= goal
    sign = "<=" if at_most else ">="
    print(f"claim {name}: {value:.3f} (goal {sign} {goal:g}) {'OK' if good else 'SHORT'}")
