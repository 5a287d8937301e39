"""Hub ids: facts without weights, the same name before and after the download, and no network."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from jobs.tools import load_facts
from model.facts import load_checkpoint
from model.weight_files import read_weight_files
from schemas.errors import ConfigError, ResourceError
from schemas.job import ModelSpec
from tests.model.tiny import Shape, make_tiny

NAME = "Some/Model-VL"
SHA = "5" * 40


@dataclass
class FakeHub:
    """A repository on a hub, and a cache beside it, as the client's functions see them."""

    repository: Path
    cache: Path
    large: bool = True
    """Weights are kept as large files, whose digest the hub knows."""
    fetched: list[str] = field(default_factory=list)

    def files(self) -> list[Path]:
        return sorted(path for path in self.repository.rglob("*") if path.is_file())

    def snapshot_download(self, name: str, **options: Any) -> str:
        assert name == NAME
        if options.get("local_files_only"):
            if not self.cache.is_dir():
                raise huggingface_hub.errors.LocalEntryNotFoundError("not here")
            return str(self.cache)
        for path in self.files():
            relative = str(path.relative_to(self.repository))
            if any(fnmatch(relative, pattern) for pattern in options["allow_patterns"]):
                (self.cache / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, self.cache / relative)
                self.fetched.append(relative)
        return str(self.cache)

    def model_info(self, name: str, *, files_metadata: bool) -> Any:
        assert files_metadata
        siblings = []
        for path in self.files():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            lfs = SimpleNamespace(sha256=digest) if self.large else None
            relative = str(path.relative_to(self.repository))
            siblings.append(SimpleNamespace(rfilename=relative, lfs=lfs))
        return SimpleNamespace(sha=SHA, siblings=siblings[::-1])

    def parse_safetensors_file_metadata(self, name: str, filename: str, *, revision: str) -> Any:
        assert (name, revision) == (NAME, SHA)
        (file,) = [f for f in read_weight_files(self.repository) if f.name == filename]
        tensors = {key: SimpleNamespace(shape=list(shape)) for key, shape in file.shapes.items()}
        return SimpleNamespace(tensors=tensors)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """A sharded checkpoint with a template, pickles and another format of the same weights."""
    repository = tmp_path / "repository"
    tiny = make_tiny(Shape(tied=False))
    shutil.copytree(tiny.folder, repository)
    (repository / "model.safetensors").unlink()
    tiny.reference.save_pretrained(tmp_path / "sharded", max_shard_size="200KB")
    for path in (tmp_path / "sharded").glob("model*"):
        shutil.copy(path, repository)
    (repository / "chat_template.jinja").write_text("{{ messages }}")
    (repository / "merges.txt").write_text("a b")
    (repository / "pytorch_model.bin").write_bytes(b"pickle")
    (repository / "other").mkdir()
    (repository / "other" / "model.safetensors").write_bytes(b"another format")
    made = FakeHub(repository, tmp_path / "cache")
    for name in ("snapshot_download", "model_info", "parse_safetensors_file_metadata"):
        monkeypatch.setattr(huggingface_hub, name, getattr(made, name))
    return made


def test_a_plan_needs_no_weights(hub: FakeHub) -> None:
    facts, counter = load_facts(ModelSpec(name=NAME))
    assert counter.prefix_tokens() > 0
    assert "chat_template.jinja" in hub.fetched
    assert "merges.txt" in hub.fetched
    assert not [name for name in hub.fetched if name.endswith((".safetensors", ".bin"))]
    # The same facts as those of the folder, digest and bytes of the weights included.
    on_disk = load_checkpoint(str(hub.repository)).facts
    assert (facts.digest, facts.weight_bytes) == (on_disk.digest, on_disk.weight_bytes)
    assert len(read_weight_files(hub.repository)) > 3


def test_a_model_is_downloaded_whole_and_without_pickles(hub: FakeHub) -> None:
    described = load_checkpoint(NAME, weights=False)
    whole = load_checkpoint(NAME)
    assert described.facts == whole.facts
    assert read_weight_files(whole.folder) == read_weight_files(hub.repository)
    assert "pytorch_model.bin" not in hub.fetched


def test_a_snapshot_that_is_here_is_used_as_it_is(hub: FakeHub) -> None:
    load_checkpoint(NAME)
    hub.fetched.clear()
    (hub.repository / "config.json").write_text("{}")  # the hub goes on
    for weights in (True, False):
        assert load_checkpoint(NAME, weights=weights).folder == hub.cache
    assert hub.fetched == []


@pytest.mark.parametrize("gone", ["tokenizer.json", "model-00002-of-*.safetensors"])
def test_a_snapshot_with_a_hole_is_not_used(hub: FakeHub, gone: str) -> None:
    load_checkpoint(NAME)
    for path in hub.cache.glob(gone):
        path.unlink()
    hub.fetched.clear()
    load_checkpoint(NAME, weights=False)
    assert "config.json" in hub.fetched
    load_checkpoint(NAME)
    assert any(fnmatch(name, gone) for name in hub.fetched)


def test_weights_that_the_hub_has_not_hashed_are_hashed_here(hub: FakeHub) -> None:
    hub.large = False
    facts = load_checkpoint(NAME, weights=False).facts
    assert facts.digest == load_checkpoint(str(hub.repository)).facts.digest


def test_a_shard_that_the_hub_lacks_is_named(hub: FakeHub) -> None:
    next(hub.repository.glob("model-00002-of-*")).unlink()
    with pytest.raises(ConfigError, match="lacks model-00002-of-"):
        load_checkpoint(NAME, weights=False)


def test_a_repository_of_pickles_is_refused(hub: FakeHub) -> None:
    for path in hub.repository.glob("model*"):
        path.unlink()
    with pytest.raises(ConfigError, match="safetensors"):
        load_checkpoint(NAME, weights=False)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize(
    "failing", ["snapshot_download", "model_info", "parse_safetensors_file_metadata"]
)
def test_a_hub_that_fails_is_one_sentence(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, weights: bool, failing: str
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, failing, refuse)
    if weights and failing != "snapshot_download":
        assert load_checkpoint(NAME).folder == hub.cache  # a download needs neither
        return
    with pytest.raises(ResourceError, match=r"Some/Model-VL.*hub") as caught:
        load_checkpoint(NAME, weights=weights)
    assert caught.value.exit_code == 5


def test_an_index_that_is_no_object(hub: FakeHub) -> None:
    (hub.repository / "model.safetensors.index.json").write_text(json.dumps([1]))
    with pytest.raises(ConfigError, match="no JSON object"):
        load_checkpoint(NAME, weights=False)
