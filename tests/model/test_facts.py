"""What is known of a checkpoint without loading it: names, errors, digest, advice; and no torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from model import facts as facts_room
from model.facts import NANO, find_folder, load_checkpoint
from model.spec import read_spec
from schemas.errors import ConfigError
from tests.model.tiny import Shape, Tiny, config_of, make_tiny


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return make_tiny()


@pytest.fixture
def copied(tiny: Tiny, tmp_path: Path) -> Path:
    """A checkpoint that a test may spoil."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny.folder, folder)
    return folder


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_torch_stays_out_of_a_plan(tiny: Tiny) -> None:
    code = (
        "import sys\n"
        "import model.spec, model.memory, model.tokenizer, model.prompt, model.facts\n"
        f"facts = model.facts.load_checkpoint({str(tiny.folder)!r})\n"
        "facts.counter.pair_tokens('<12.5 seconds>', 12)\n"
        "heavy = {'torch', 'transformers', 'safetensors.torch'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_facts_of_a_folder(tiny: Tiny) -> None:
    facts = load_checkpoint(str(tiny.folder)).facts
    assert facts.token_px == 32
    assert facts.context_tokens == 4096
    assert facts.kv_bytes_per_token == 2 * 3 * 2 * 32 * 4
    assert facts.advice.fps is None
    assert facts.advice.pair_tokens is None
    assert len(facts.digest) == 64


def test_a_checkpoint_may_advise(copied: Path) -> None:
    (copied / "video_preprocessor_config.json").write_text(
        json.dumps({"longtake": {"fps": 0.1, "pair_tokens": 12, "context_tokens": 2048}})
    )
    facts = load_checkpoint(str(copied)).facts
    assert facts.advice.fps == Fraction(1, 10)
    assert facts.advice.pair_tokens == 12
    assert facts.context_tokens == 2048


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_one_byte_changes_the_digest(copied: Path, name: str) -> None:
    before = load_checkpoint(str(copied)).facts.digest
    path = copied / name
    data = path.read_bytes()
    at = data.rindex(b"}") if name.endswith("json") else len(data) - 1
    path.write_bytes(data[:at] + (b" }" if name.endswith("json") else bytes([data[at] ^ 1])))
    assert load_checkpoint(str(copied)).facts.digest != before


def test_place_and_time_do_not_change_the_digest(tiny: Tiny, copied: Path) -> None:
    for path in copied.iterdir():
        os.utime(path, (1, 1))
    assert (
        load_checkpoint(str(copied)).facts.digest == load_checkpoint(str(tiny.folder)).facts.digest
    )


def test_dtypes(tiny: Tiny) -> None:
    auto = load_checkpoint(str(tiny.folder))
    narrow = load_checkpoint(str(tiny.folder), dtype="bfloat16")
    cache = load_checkpoint(str(tiny.folder), kv_dtype="bfloat16")
    assert (auto.dtype, auto.kv_dtype) == ("float32", "float32")
    assert (narrow.dtype, narrow.kv_dtype) == ("bfloat16", "bfloat16")
    assert (cache.dtype, cache.kv_dtype) == ("float32", "bfloat16")
    assert 2 * narrow.facts.weight_bytes == auto.facts.weight_bytes
    assert 2 * cache.facts.kv_bytes_per_token == auto.facts.kv_bytes_per_token


def test_an_int8_cache(tiny: Tiny) -> None:
    wide = load_checkpoint(str(tiny.folder))
    narrow = load_checkpoint(str(tiny.folder), kv_dtype="int8")
    assert (narrow.dtype, narrow.kv_dtype) == ("float32", "int8")
    assert narrow.facts.kv_bytes_per_token == 3 * 2 * (2 * 32 + 2 + 1)
    assert narrow.facts.kv_tail_bytes == 64 * (3 * 2 * 2 * 32 * 2)
    # What a plan offers is what the setting gives.
    offered = wide.facts.as_int8()
    assert offered is not None
    assert offered.memory(1000, 10, [5]) == narrow.facts.memory(1000, 10, [5])
    assert narrow.facts.as_int8() is None


@pytest.mark.parametrize(
    ("setting", "given", "accepted"),
    [
        ("dtype", "float8", r"float8.*auto, float32 or bfloat16"),
        ("dtype", "int8", r"int8.*auto, float32 or bfloat16"),
        ("kv_dtype", "float8", r"float8.*auto, float32, bfloat16 or int8"),
    ],
)
def test_an_unknown_dtype_is_refused(tiny: Tiny, setting: str, given: str, accepted: str) -> None:
    with pytest.raises(ConfigError, match=accepted):
        load_checkpoint(str(tiny.folder), **{setting: given})


def test_weights_of_another_dtype_are_read_as_bfloat16(copied: Path) -> None:
    rewrite(copied / "config.json", dtype="float16")
    assert load_checkpoint(str(copied)).dtype == "bfloat16"


@pytest.mark.parametrize("wish", [{"fps": "fast"}, {"pair_tokens": 0}, {"context_tokens": [1]}])
def test_a_strange_advice_is_refused(copied: Path, wish: dict[str, object]) -> None:
    path = copied / "video_preprocessor_config.json"
    path.write_text(json.dumps({"longtake": wish}))
    with pytest.raises(ConfigError, match=next(iter(wish))):
        load_checkpoint(str(copied))


def test_a_config_of_other_types_is_refused(copied: Path) -> None:
    rewrite(copied / "config.json", text_config=[1])
    with pytest.raises(ConfigError, match="malformed"):
        load_checkpoint(str(copied))


def test_the_bundled_name_is_a_folder_here() -> None:
    assert find_folder("nano") == NANO
    assert (NANO / "config.json").is_file()


@pytest.mark.parametrize("name", ["nanu", "./missing", "/no/such/folder", "a/b/c"])
def test_a_name_that_is_nothing(name: str) -> None:
    with pytest.raises(ConfigError, match="nano") as caught:
        load_checkpoint(name)
    assert caught.value.exit_code == 4


def test_pickled_weights_are_refused(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pickle.*safetensors"):
        load_checkpoint(str(copied))


def test_a_folder_without_weights(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="no weights"):
        load_checkpoint(str(copied))


def test_a_wrong_setting_is_said_before_the_weights_are_read(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts_room, "read_weight_files", lambda _: pytest.fail("weights were read"))
    with pytest.raises(ConfigError, match="4 times"):
        load_checkpoint(str(copied), context=100_000)


def test_a_missing_shard_is_named(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "model-00001-of-00002.safetensors")
    index = {
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
        }
    }
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r"model-00002-of-00002\.safetensors"):
        load_checkpoint(str(copied))


def test_a_folder_without_tokenizer(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        load_checkpoint(str(copied))


def test_an_unreadable_tokenizer(copied: Path) -> None:
    (copied / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        load_checkpoint(str(copied))


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_an_unreadable_config(copied: Path, text: str) -> None:
    (copied / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_checkpoint(str(copied))


def test_another_architecture_is_refused(copied: Path) -> None:
    rewrite(copied / "config.json", model_type="llama")
    with pytest.raises(ConfigError, match=r"llama.*qwen3_vl"):
        load_checkpoint(str(copied))


def test_a_config_with_a_hole_is_refused(copied: Path) -> None:
    config = config_of(Shape())
    del config["text_config"]["num_hidden_layers"]
    rewrite(copied / "config.json", **config)
    with pytest.raises(ConfigError, match="num_hidden_layers"):
        load_checkpoint(str(copied))


def test_a_checkpoint_of_other_patches_is_refused(copied: Path) -> None:
    config = config_of(Shape())
    config["vision_config"]["temporal_patch_size"] = 4
    rewrite(copied / "config.json", **config)
    with pytest.raises(ConfigError, match="4 frames"):
        load_checkpoint(str(copied))


def test_the_layout_is_chosen_by_name(copied: Path) -> None:
    inner = load_checkpoint(str(copied)).counter.prefix_tokens()
    assert load_checkpoint(str(copied), outer_wrapper=True).counter.prefix_tokens() == inner + 1


def test_an_unreadable_advice(copied: Path) -> None:
    (copied / "video_preprocessor_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"video_preprocessor_config\.json"):
        load_checkpoint(str(copied))


def test_the_released_config_of_2b(copied: Path) -> None:
    """Sizes of Qwen3-VL-2B as its config writes them: the old names of dtype and rope included."""
    config = {
        "model_type": "qwen3_vl",
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "tie_word_embeddings": True,
        "text_config": {
            "model_type": "qwen3_vl_text",
            "dtype": "bfloat16",
            "head_dim": 128,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "max_position_embeddings": 262144,
            "num_attention_heads": 16,
            "num_hidden_layers": 28,
            "num_key_value_heads": 8,
            "rope_scaling": {
                "mrope_interleaved": True,
                "mrope_section": [24, 20, 20],
                "rope_type": "default",
            },
            "rope_theta": 5000000,
            "vocab_size": 151936,
        },
        "vision_config": {
            "deepstack_visual_indexes": [5, 11, 17],
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "num_position_embeddings": 2304,
            "out_hidden_size": 2048,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }
    (copied / "config.json").write_text(json.dumps(config))
    spec = read_spec(copied)
    assert spec.text.tied
    assert spec.dtype == "bfloat16"
    assert spec.vision.deepstack == (5, 11, 17)
    assert 2 * spec.text.layers * spec.text.kv_heads * spec.text.head_dim * 2 == 114_688
