"""Loading: one file or shards, tied or not; a gap is an error, never random numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import weights
from model.spec import read_spec
from model.weights import Weights, load_weights
from schemas.errors import ConfigError, ResourceError
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


def load_on_two(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, shares: tuple[float, float]
) -> Weights:
    """Load over the CPU and a device that keeps shapes only, each free for a share of the model."""
    total = sum(p.numel() for p in tiny.reference.parameters()) * 4
    free = tuple(int(total * share) for share in shares)
    devices = (torch.device("cpu"), torch.device("meta"))
    monkeypatch.setattr(weights, "compute_devices", lambda: devices)
    monkeypatch.setattr(weights, "free_on", lambda _: free)
    return load_weights(tiny.folder, read_spec(tiny.folder), "float32")


def devices_of(module: torch.nn.Module) -> set[str]:
    return {p.device.type for p in module.parameters()}


@pytest.mark.parametrize("tied", [True, False])
def test_layers_are_spread_over_two_devices(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_on_two(make_tiny(Shape(tied=tied, layers=6)), monkeypatch, (0.8, 0.8))
    kinds = [device.type for device in loaded.layer_devices]
    assert kinds == sorted(kinds)
    assert set(kinds) == {"cpu", "meta"}
    for layer, kind in zip(loaded.text.layers, kinds, strict=True):
        assert devices_of(layer) == {kind}
    assert devices_of(loaded.vision) == devices_of(loaded.text.embed_tokens) == {"cpu"}
    assert devices_of(loaded.text.norm) == {"meta"}
    assert loaded.device.type == "cpu"
    # A tied head stays with the embedding; one of its own goes with the norm.
    assert devices_of(loaded.module.lm_head) == {"cpu" if tied else "meta"}
    assert (loaded.module.lm_head.weight is loaded.text.embed_tokens.weight) == tied


def test_the_head_takes_hidden_states_from_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_on_two(make_tiny(Shape(tied=False)), monkeypatch, (0.8, 0.8))
    assert loaded.logits(torch.zeros(2, 64)).device.type == "meta"


def test_a_first_device_with_room_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_on_two(make_tiny(), monkeypatch, (2.0, 2.0))
    assert {device.type for device in loaded.layer_devices} == {"cpu"}


def test_devices_that_are_too_small_together(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError, match="found no place"):
        load_on_two(make_tiny(), monkeypatch, (0.6, 0.2))


def test_one_device_holds_every_layer() -> None:
    tiny = make_tiny()
    loaded = load_weights(tiny.folder, read_spec(tiny.folder), "float32")
    assert loaded.layer_devices == (loaded.device,) * 3
