"""Loading: one file or shards, tied or not; a gap is an error, never random numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.spec import read_spec
from model.weights import load_weights
from schemas.errors import ConfigError
from tests.model.tiny import Shape, Tiny, make_tiny


def copy_of(tiny: Tiny, folder: Path) -> Path:
    shutil.copytree(tiny.folder, folder, dirs_exist_ok=True)
    return folder


@pytest.mark.parametrize(
    "shape", [Shape(), Shape(tied=False), Shape(moe=True, tied=False)], ids=str
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_number_arrives(shape: Shape, dtype: str) -> None:
    tiny = make_tiny(shape)
    loaded = load_weights(tiny.folder, read_spec(tiny.folder), dtype)
    ours = dict(loaded.module.named_parameters())
    expected = dict(tiny.reference.named_parameters())
    assert ours.keys() == expected.keys()
    for name, weight in ours.items():
        assert str(weight.dtype) == f"torch.{dtype}"
        assert torch.equal(weight, expected[name].to(weight.dtype)), name
    tied = loaded.module.lm_head.weight is loaded.text.embed_tokens.weight
    assert tied == shape.tied
    assert not any(weight.requires_grad for weight in ours.values())


def test_shards_are_joined(tmp_path: Path) -> None:
    tiny = make_tiny()
    folder = copy_of(tiny, tmp_path)
    (folder / "model.safetensors").unlink()
    tiny.reference.save_pretrained(tmp_path / "sharded", max_shard_size="200KB")
    shards = list((tmp_path / "sharded").glob("model*"))
    assert len(shards) > 3
    for path in shards:
        shutil.copy(path, folder)
    loaded = load_weights(folder, read_spec(folder), "float32")
    for name, weight in tiny.reference.named_parameters():
        assert torch.equal(weight, loaded.module.get_parameter(name))


def test_a_gap_is_an_error(tmp_path: Path) -> None:
    folder = copy_of(make_tiny(), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if "layers.1.mlp" in name)
    del tensors[gone]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"layers\.1\.mlp"):
        load_weights(folder, read_spec(folder), "float32")


def test_a_wrong_shape_is_an_error(tmp_path: Path) -> None:
    folder = copy_of(make_tiny(), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "layers.1.mlp" in name)
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="download"):
        load_weights(folder, read_spec(folder), "float32")


def test_a_cut_file_is_an_error(tmp_path: Path) -> None:
    folder = copy_of(make_tiny(), tmp_path)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ConfigError, match="download"):
        load_weights(folder, read_spec(folder), "float32")
