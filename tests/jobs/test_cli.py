"""What a user sees: one clear sentence, the documented exit code, data on stdout, no traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import cli, session
from jobs.executor import SerialExecutor
from model.facts import NANO
from sample_media.generate import HERE
from tests.jobs.fakes import FACTS, FakeModel
from tests.pipeline.test_plan import Counter

FOUND = 'say {"events": [{"start": 3.0, "end": 9.0}]}'


@pytest.fixture
def fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "load_facts", lambda _: (FACTS, Counter()))
    monkeypatch.setattr(session, "start_executor", lambda *_: SerialExecutor(FakeModel))


class Said:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def longtake(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["longtake", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err + said.out
        code = caught.value.code
        assert code is None or isinstance(code, int)
        return Said(code or 0, said.out, said.err)

    return call


def write_job(folder: Path, **changes: Any) -> str:
    job = {
        "videos": [str(HERE / "modern.mp4")],
        "queries": [{"id": "q", "find": FOUND}],
        "output": str(folder / "out"),
        **changes,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return str(path)


@pytest.mark.usefixtures("fake_model")
def test_find_prints_events_and_ends_well(longtake: Any, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    said = longtake("find", FOUND, str(HERE / "modern.mp4"), "--output", out, "--json")
    assert said.code == 0
    (row,) = [json.loads(line) for line in said.out.splitlines()]
    assert row["video_uri"].endswith("modern.mp4")
    assert row["start_s"] < row["end_s"]
    assert "1 event, requests: 1 found. Parquet:" in " ".join(said.err.split())


@pytest.mark.usefixtures("fake_model")
def test_failed_rows_end_with_three_and_one_sentence_each(longtake: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    bad = ["missing.mp4", str(tmp_path / "empty.mp4"), str(HERE / "not_a_video.mp4")]
    job = write_job(tmp_path, videos=[*bad, str(HERE / "modern.mp4")])
    said = longtake("run", job)
    assert said.code == 3
    assert said.err.count("failed: ") == 3
    assert "missing.mp4 does not exist; check the path." in said.err
    assert "empty.mp4 is empty (0 bytes); copy it again." in said.err
    assert "not_a_video.mp4 is not a video that can be read" in said.err
    assert "1 event, " in said.err


@pytest.mark.usefixtures("fake_model")
def test_run_as_json(longtake: Any, tmp_path: Path) -> None:
    said = longtake("run", write_job(tmp_path), "--json")
    assert json.loads(said.out)["requests"] == {"found": 1}


@pytest.mark.usefixtures("fake_model")
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vidoes": []}, "unknown key `vidoes`; did you mean `videos`?"),
        ({"sampling": {"fps": -2}}, "`sampling.fps`: Input should be greater than 0 (given -2)"),
        ({"model": {"context": 64}}, "cannot hold the longest question"),
        ({"videos": ["nowhere/*.mp4"]}, "no file matches 'nowhere/*.mp4'"),
    ],
)
def test_a_wrong_job_ends_with_four(
    changes: dict[str, Any], sentence: str, longtake: Any, tmp_path: Path
) -> None:
    said = longtake("run", write_job(tmp_path, **changes))
    assert said.code == 4
    assert sentence in " ".join(said.err.split())


def test_a_job_file_that_is_none(longtake: Any, tmp_path: Path) -> None:
    assert longtake("run", str(tmp_path / "none.yaml")).code == 4
    (tmp_path / "bad.yaml").write_text("a: [1,\n b: }")
    said = longtake("run", str(tmp_path / "bad.yaml"))
    assert (said.code, "is not YAML at line 2" in said.err) == (4, True)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert longtake("run", str(tmp_path / "bytes.yaml")).code == 4


def test_a_model_that_cannot_be_reached(longtake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    video = str(HERE / "modern.mp4")
    said = longtake("plan", "--video", video, "--model", "Nobody/Nothing-VL")
    assert said.code == 5
    assert "Nobody/Nothing-VL" in said.err
    said = longtake("plan", "--video", video, "--model", "./nowhere")
    assert said.code == 4


def test_usage_ends_with_two(longtake: Any) -> None:
    assert longtake("fnd").code == 2
    assert longtake("find").code == 2
    assert longtake("plan").code == 2
    assert longtake("events", "x", "--min-confidence", "7").code == 2


def test_events_of_no_output(longtake: Any, tmp_path: Path) -> None:
    said = longtake("events", str(tmp_path))
    assert (said.code, said.out) == (4, "")
    assert "is no output of Longtake" in said.err


@pytest.mark.usefixtures("fake_model")
def test_events_are_filtered(longtake: Any, tmp_path: Path) -> None:
    two = [{"id": "a", "find": FOUND}, {"id": "b", "find": FOUND.replace("9.0", "20.0")}]
    assert longtake("run", write_job(tmp_path, queries=two)).code == 0
    out = str(tmp_path / "out")

    def count(*filters: str) -> int:
        return len(longtake("events", out, "--json", *filters).out.splitlines())

    assert count() == 2
    assert count("--query", "a") == 1
    assert count("--after", "12") == 1
    assert count("--before", "1") == 0
    assert count("--video", "modern") == 2
    assert count("--video", "other") == 0
    assert count("--min-confidence", "0.99") == 0
    assert "modern.mp4" in longtake("events", out).out


def test_plan_counts_without_decoding(longtake: Any) -> None:
    said = longtake("plan", "--video", str(HERE / "several_events.mp4"), "--json", "--fps", "0.5")
    facts = json.loads(said.out)
    assert facts["frames"] == 90
    assert facts["effective_fps"] == 0.5
    parts = ("weight_bytes", "kv_bytes", "chunk_bytes", "waiting_bytes")
    assert facts["total_bytes"] == sum(facts[part] for part in parts)
    table = longtake("plan", "--video", str(HERE / "several_events.mp4"))
    assert "several_events.mp4" in table.out
    for part in ("most memory: 0.", "weights 0.", "KV cache 0.", "chunk 0."):
        assert part in table.out
    assert "YaRN" not in table.out


def test_plan_says_that_yarn_is_on(longtake: Any, tmp_path: Path) -> None:
    short = tmp_path / "short"
    shutil.copytree(NANO, short)
    advice = short / "video_preprocessor_config.json"
    wishes = json.loads(advice.read_text(encoding="utf-8"))
    wishes["longtake"]["context_tokens"] = 8192
    advice.write_text(json.dumps(wishes), encoding="utf-8")
    asked = ("plan", "--video", str(HERE / "modern.mp4"), "--model", str(short))
    plan = (*asked, "--context", "16k")
    assert json.loads(longtake(*plan, "--json").out)["yarn_factor"] == 2.0
    assert "YaRN factor 2" in longtake(*plan).out
    said = longtake(*asked, "--context", "64k")
    assert said.code == 4
    assert f"more than 4 times what {short} is made for (8192)" in said.err


def test_plan_names_what_it_cannot_plan(longtake: Any, tmp_path: Path) -> None:
    shutil.copy(HERE / "not_a_video.mp4", tmp_path / "x.mp4")
    said = longtake("plan", "--video", str(tmp_path / "x.mp4"), "--video", str(HERE / "modern.mp4"))
    assert said.code == 3
    assert "modern.mp4" in said.out
    assert "x.mp4 is not a video" in said.err


def test_doctor(longtake: Any) -> None:
    facts = json.loads(longtake("doctor", "--json").out)
    assert facts["model"]["name"] == "nano"
    assert facts["libraries"]["torch"]
    assert facts["model"]["yarn_factor"] is None
    assert facts["model"]["tokens_that_fit"] == facts["model"]["context"] == 1_048_576
    assert "av " in longtake("doctor").out
    assert "problem" in json.loads(longtake("doctor", "--json", "--model", "./x").out)["model"]


def test_help_comes_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['longtake', '--help']\n"
        "from jobs.cli import main\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=HERE.parent
    )
    assert done.returncode == 0, done.stderr
    assert "find" in done.stdout
