"""YaRN per job: when it is on, what it computes, and that the digest tells."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.engine import load_model
from model.facts import load_checkpoint
from model.spec import CheckpointSpec, read_spec
from model.weights import load_weights
from model.yarn import Yarn, choose_yarn
from schemas.errors import ConfigError
from tests.model.tiny import Shape, config_of, library_inputs, make_frames, make_tiny

NATIVE = 4096


def written(factor: float, native: int, **others: Any) -> Shape:
    """A checkpoint whose config has YaRN in it."""
    rope = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": native}
    return Shape(rope=tuple(rope.items()), **others)


@pytest.fixture(scope="module")
def spec() -> CheckpointSpec:
    return read_spec(make_tiny().folder)


@pytest.mark.parametrize(
    ("context", "asked", "factor", "longest"),
    [
        (None, None, None, 1000),
        (500, None, None, 1000),
        (1000, None, None, 1000),
        (1001, None, 2.0, 1001),
        (2000, None, 2.0, 2000),
        (2001, None, 3.0, 2001),
        (4000, None, 3.0, 4000),
        (4000, 4.0, 4.0, 4000),
        (500, 1.5, 1.5, 500),
        (None, 1.5, 1.5, 1500),
    ],
)
def test_the_factor_follows_the_context(
    spec: CheckpointSpec,
    context: int | None,
    asked: float | None,
    factor: float | None,
    longest: int,
) -> None:
    expected = Yarn(factor, 1000) if factor else None
    assert choose_yarn("m", spec, 1000, context, asked) == (expected, longest)


def test_there_is_an_end_to_it(spec: CheckpointSpec) -> None:
    with pytest.raises(ConfigError, match=r"4001 is more than 4 times .*\(1000\).*4000"):
        choose_yarn("m", spec, 1000, 4001, None)
    for factor in (1.0, 4.5, float("nan")):
        with pytest.raises(ConfigError, match="above 1 and at most 4"):
            choose_yarn("m", spec, 1000, None, factor)


def test_positions_are_stretched_once(spec: CheckpointSpec) -> None:
    own = replace(spec, text=replace(spec.text, rope_type="yarn", rope_factor=3.0))
    assert choose_yarn("m", own, 1000, 1000, None) == (None, 1000)
    with pytest.raises(ConfigError, match=r"1001 is more than m is made for.*\(yarn\)"):
        choose_yarn("m", own, 1000, 1001, None)
    with pytest.raises(ConfigError, match=r"leave model\.yarn out"):
        choose_yarn("m", own, 1000, None, 2.0)


def test_the_digest_names_the_model_as_it_computes() -> None:
    folder = str(make_tiny().folder)
    plain = load_checkpoint(folder)
    assert (plain.yarn, plain.facts.yarn_factor) == (None, None)
    within = load_checkpoint(folder, context=100).facts
    assert (within.digest, within.context_tokens) == (plain.facts.digest, NATIVE)
    twice = load_checkpoint(folder, context=2 * NATIVE)
    assert twice.yarn == Yarn(2.0, NATIVE)
    assert (twice.facts.context_tokens, twice.facts.yarn_factor) == (2 * NATIVE, 2.0)
    # The same factor is the same model, however much of it a job uses.
    assert load_checkpoint(folder, context=NATIVE + 1).facts.digest == twice.facts.digest
    other = load_checkpoint(folder, context=2 * NATIVE, yarn=3.0).facts
    assert len({plain.facts.digest, twice.facts.digest, other.digest}) == 3


def test_a_config_with_yarn_is_left_alone() -> None:
    tiny = make_tiny(written(2.0, 2048))
    checkpoint = load_checkpoint(str(tiny.folder), context=NATIVE)
    assert checkpoint.yarn is None
    assert checkpoint.facts.yarn_factor == 2.0
    assert checkpoint.facts.digest == load_checkpoint(str(tiny.folder)).facts.digest


def test_an_advised_length_is_the_native_one(tmp_path: Path) -> None:
    folder = tmp_path / "advising"
    shutil.copytree(make_tiny().folder, folder)
    advice = {"longtake": {"context_tokens": 1024}}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(advice))
    checkpoint = load_checkpoint(str(folder), context=NATIVE)
    assert checkpoint.yarn == Yarn(3.0, 1024)
    assert_rope(
        load_weights(folder, checkpoint.spec, "float32", checkpoint.yarn), written(3.0, 1024)
    )


def assert_rope(loaded: Any, shape: Shape) -> None:
    """Frequencies and scaling are those that the library has for a config with YaRN in it."""
    ours = loaded.text.rotary_emb
    theirs = make_tiny(shape).reference.model.language_model.rotary_emb
    assert ours.rope_type == "yarn"
    assert torch.equal(ours.inv_freq, theirs.inv_freq)
    assert ours.attention_scaling == theirs.attention_scaling > 1


@pytest.mark.parametrize("moe", [False, True])
@pytest.mark.parametrize("factor", [2.0, 3.0])
def test_it_computes_what_the_library_does(moe: bool, factor: float) -> None:
    """The same weights under a config with YaRN in it give the same logits."""
    plain, stretched = Shape(moe=moe), written(factor, NATIVE, moe=moe)
    folder = make_tiny(plain).folder
    loaded = load_weights(folder, read_spec(folder), "float32", Yarn(factor, NATIVE))
    assert_rope(loaded, stretched)
    config = config_of(plain)
    ids = [config["vision_start_token_id"], *[config["video_token_id"]] * 6, 40, 41, 42]
    inputs = library_inputs(ids, make_frames(2))
    with torch.no_grad():
        got = loaded.module(**inputs).logits
        expected = make_tiny(stretched).reference(**inputs).logits
        unscaled = make_tiny(plain).reference(**inputs).logits
    assert (got - expected).abs().max() <= 1e-5
    assert (got - unscaled).abs().max() > 1e-2


def test_the_files_stay_as_they_are() -> None:
    folder = make_tiny().folder
    before = (folder / "config.json").read_bytes()
    model = load_model(str(folder), context=3 * NATIVE)
    assert model.facts.context_tokens == 3 * NATIVE
    assert model.weights.text.rotary_emb.rope_type == "yarn"
    assert (folder / "config.json").read_bytes() == before


class Heard(logging.Handler):
    """What a logger said; with CI set this library passes it on too, and caplog hears it twice."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def test_the_library_does_not_comment_on_the_factor(tmp_path: Path) -> None:
    """A config as the release advises it: its length is not what the factor makes of the native."""
    folder = tmp_path / "advised"
    shutil.copytree(make_tiny().folder, folder)
    # The library says each sentence once per process, so this factor is used nowhere else.
    (folder / "config.json").write_text(json.dumps(config_of(written(2.75, 1024))))
    library = logging.getLogger("transformers")
    heard = Heard()
    library.addHandler(heard)
    try:
        load_weights(folder, read_spec(folder), "float32")
        assert heard.records == []
        # Afterwards the library may speak again.
        logging.getLogger("transformers.any").warning("heard")
        assert len(heard.records) == 1
    finally:
        library.removeHandler(heard)
