"""Rules of DESIGN.md that no linter checks."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VERBS = ("status", "retry", "cancel", "verify", "gc")
PACKAGES = ("schemas", "pipeline", "model", "jobs")
MODULES = [path for name in PACKAGES for path in sorted((ROOT / name).glob("*.py"))]


def test_parquet_is_written_in_one_file() -> None:
    users = {path.name for path in MODULES if "pyarrow.parquet" in path.read_text()}
    assert users == {"parquet.py"}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_holds_a_docstring_only(name: str) -> None:
    (only,) = ast.parse((ROOT / name / "__init__.py").read_text()).body
    assert isinstance(only, ast.Expr)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_modules_and_functions_stay_small_and_described(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says which step it is"
    assert text.count("\n") <= 400
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno <= 75, node.name


def test_printing_and_exits_stay_in_the_command_line() -> None:
    for path in MODULES:
        text = path.read_text()
        assert "sys.exit" not in text or path.name == "cli.py", path.name
        assert "sys.stdout" not in text or path.name == "console.py", path.name


def test_every_command_is_in_the_readme() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    readme = (ROOT / "README.md").read_text()
    for name in (*VERBS, "find", "run", "plan", "events", "doctor", "worker"):
        assert name in listed
        assert f"longtake {name}" in readme
