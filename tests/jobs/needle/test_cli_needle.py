"""What a user of `longtake needle` sees: sentences and exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import cli
from jobs.cli_needle import PRESETS
from jobs.needle.prepare import prepare
from schemas.needle import read_needle
from tests.jobs.needle.test_evaluate import TINY

PRESET_FILES = Path(cli.__file__).with_name("needle") / "presets"


@pytest.fixture
def needle(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["longtake", "needle", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err + said.out
        code = caught.value.code
        assert code is None or isinstance(code, int)
        return code or 0, said.out, " ".join(said.err.split())

    return call


def test_either_a_file_or_a_preset(needle: Any, tmp_path: Path) -> None:
    code, _, err = needle()
    assert code == 2
    assert "smoke, standard, long, million" in err
    assert needle(str(tmp_path / "x.yaml"), "--preset", "smoke")[0] == 2
    code, _, err = needle("--preset", "stanard")
    assert code == 2
    assert "no preset 'stanard'" in err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lenghts: [4k]", "unknown key `lenghts`; did you mean `lengths`?"),
        ("lengths: [4x]", "'4x' is no length; write tokens (32k, 1m), `600 frames`"),
        ("lengths: []", "lengths is empty"),
        ("depths: [0.5, 1.5]", "depths are shares of the video, 0 to 1"),
        ("fps: 30", "fps 30 is more than the haystack has (8)"),
        ("needles: [cod]", "Input should be 'code', 'image' or 'clip'"),
        ("needles: [{name: x, ask: a, answer: b}]", "has either an `image` or a `clip`"),
        ("haystack: {video: [a]}", "unknown key `haystack.video`; did you mean `videos`?"),
        ("[1, 2]", "holds no evaluation"),
        ("a: [", "is not YAML"),
    ],
)
def test_mistakes_are_sentences(needle: Any, tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    code, _, err = needle(str(path))
    assert code == 4
    assert expected in err


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_sound(name: str) -> None:
    spec = read_needle(yaml.safe_load((PRESET_FILES / f"{name}.yaml").read_text()), where=name)
    assert spec.name == name


def test_rows_and_report_come_out(needle: Any, tmp_path: Path) -> None:
    path, output = tmp_path / "tiny.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump({**TINY, "lengths": ["700"], "depths": [0.5]}))
    cache = str(tmp_path / "cache")
    code, out, err = needle(str(path), "--output", str(output), "--cache", cache)
    assert code == 0
    assert "700" in out
    assert "no needle:" in out
    assert "Report:" in err
    code, out, _ = needle(str(path), "--output", str(output), "--cache", cache, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert {row["control"] for row in rows} == {"", "no_needle", "other_needle", "scrambled"}
    assert (output / "report.html").is_file()


def test_standard_hides_each_needle_once_in_turn(tmp_path: Path) -> None:
    spec = read_needle(yaml.safe_load((PRESET_FILES / "standard.yaml").read_text()), where="x")
    works = prepare(spec, tmp_path, tmp_path).works
    cells = [(cell.rung, cell.depth) for work in works for cell in work.own.cells]
    assert len(cells) == len(set(cells)) == 66
    assert {kind for work in works for kind in work.own.kinds} == {0, 1, 2}
