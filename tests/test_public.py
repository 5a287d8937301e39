"""The public face, as a notebook uses it, on the bundled checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

import longtake
from model.facts import NANO
from sample_media.generate import HERE


def test_find_and_read(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    events = longtake.find("a blue square", [str(HERE / "modern.mp4")], output=output)
    ((start, end),) = events.select("start_s", "end_s").rows()
    assert abs(start - 12) <= 2
    assert abs(end - 22) <= 2
    assert longtake.read(output, "requests")["status"].to_list() == ["found"]
    assert longtake.read(output, "videos")["codec"][0] in ("av1", "libdav1d")


def test_errors_are_ours(tmp_path: Path) -> None:
    with pytest.raises(longtake.ConfigError, match="no file matches"):
        longtake.find("x", ["nowhere/*.mp4"], output=str(tmp_path))
    with pytest.raises(longtake.ConfigError, match="cannot be read"):
        longtake.run(tmp_path / "none.yaml")


def test_the_bundled_checkpoint_is_a_plain_one() -> None:
    model, report = Qwen3VLForConditionalGeneration.from_pretrained(NANO, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.text_config.rope_parameters["mrope_interleaved"]
    text = '<12.5 seconds>{"events": [{"start": 1.0, "end": 123.5}]}'
    tokenizer = AutoTokenizer.from_pretrained(NANO)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_bundled_checkpoint_is_small() -> None:
    assert (NANO / "model.safetensors").stat().st_size < 20_000_000
