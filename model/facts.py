"""Checkpoint name → ModelFacts and prompt layout, without loading weights. Imports no torch.

A name is `nano`, a folder, or a hub id. Only safetensors are read: a pickle can run code.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import huggingface_hub

from model import memory
from model.prompt import PromptLayout
from model.spec import CheckpointSpec, read_spec
from model.tokenizer import TextTokenizer
from model.yarn import Yarn, choose_yarn
from schemas.errors import ConfigError, ResourceError
from schemas.ports import ModelFacts, SamplingAdvice

NANO = Path(__file__).with_name("nano")
_FILES = ("*.json", "*.safetensors", "*.txt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that is on disk and known, not loaded."""

    folder: Path
    spec: CheckpointSpec
    counter: PromptLayout
    facts: ModelFacts
    dtype: str
    kv_dtype: str
    yarn: Yarn | None
    """What loading adds to the config; None also where the config has YaRN of its own."""


def load_checkpoint(
    name: str,
    *,
    dtype: str = "auto",
    kv_dtype: str = "auto",
    outer_wrapper: bool = False,
    context: int | None = None,
    yarn: float | None = None,
) -> Checkpoint:
    """Find a checkpoint and read what it is. Raises ConfigError or ResourceError.

    A `context` beyond its own length turns on YaRN; `yarn` is a factor of the caller's own.
    """
    folder = find_folder(name)
    spec = read_spec(folder)
    dtype = _choose_dtype("dtype", dtype, spec.dtype, tuple(memory.DTYPE_BYTES))
    kv_dtype = _choose_dtype("kv_cache", kv_dtype, dtype, memory.KV_DTYPES)
    stretch, context_tokens = choose_yarn(name, spec, _native(folder, spec), context, yarn)
    weights = weight_files(folder)
    facts = ModelFacts(
        name=name,
        digest=digest_checkpoint(folder, weights, stretch),
        token_px=spec.token_px,
        context_tokens=context_tokens,
        weight_bytes=memory.count_parameters(weights, spec) * memory.DTYPE_BYTES[dtype],
        kv_bytes_per_token=memory.kv_bytes_per_token(spec, kv_dtype),
        chunk_bytes_per_token=memory.chunk_bytes_per_token(spec, dtype),
        fixed_bytes=memory.fixed_bytes(spec, dtype),
        advice=_advice(folder),
        kv_tail_bytes=memory.kv_tail_bytes(spec, kv_dtype),
        int8_kv_bytes_per_token=memory.kv_bytes_per_token(spec, "int8"),
        int8_kv_tail_bytes=memory.kv_tail_bytes(spec, "int8"),
        yarn_factor=stretch.factor if stretch else spec.text.rope_factor,
    )
    layout = PromptLayout(spec, TextTokenizer(folder), outer_wrapper=outer_wrapper)
    return Checkpoint(folder, spec, layout, facts, dtype, kv_dtype, stretch)


def _choose_dtype(setting: str, asked: str, own: str, accepted: tuple[str, ...]) -> str:
    """The dtype that a setting means; weights stored in any other are read as bfloat16."""
    if asked == "auto":
        return own if own in accepted else "bfloat16"
    if asked not in accepted:
        names = f"auto, {', '.join(accepted[:-1])} or {accepted[-1]}"
        raise ConfigError(f"model.{setting} is {asked!r}; write {names}.")
    return asked


def find_folder(name: str) -> Path:
    """Where a checkpoint lies; hub ids are downloaded. Raises ConfigError or ResourceError."""
    if name == "nano":
        return NANO
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.absolute()
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ConfigError(
            f"model {name!r} is no folder; name `nano`, a checkpoint folder, or a hub id such as "
            "Qwen/Qwen3-VL-8B-Instruct."
        )
    return _download(name)


def _download(name: str) -> Path:
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(_FILES)))
    except Exception as error:  # noqa: BLE001 - the hub client raises many kinds; all end the same
        raise ResourceError(
            f"model {name!r} is neither a folder here nor reachable on the hub "
            f"({type(error).__name__}); check the name and the network, or copy the checkpoint to "
            "a folder and name that."
        ) from None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a checkpoint, sorted. Raises ConfigError where there are none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = list(folder.glob("*.bin")) + list(folder.glob("*.pt"))
        given = "pickled weights only, which can run code" if pickles else "no weights"
        raise ConfigError(
            f"{folder} holds {given}; *.safetensors are read. Convert or download them."
        )
    _check_shards(folder)
    return files


def _check_shards(folder: Path) -> None:
    """A sharded checkpoint lists its files; one that was half downloaded must not get further."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    listed = set(_read_object(index).get("weight_map", {}).values())
    if missing := sorted(name for name in listed if not (folder / str(name)).is_file()):
        raise ConfigError(f"{folder} lacks {', '.join(missing)}; finish the download.")


def digest_checkpoint(folder: Path, weights: list[Path], yarn: Yarn | None) -> str:
    """SHA-256 over config, tokenizer, weights and YaRN, hex: names the model as it computes."""
    total = hashlib.sha256()
    for path in [folder / "config.json", folder / "tokenizer.json", *weights]:
        if path.is_file():
            stat = path.stat()
            total.update(f"{path.name}:{_digest(path, stat.st_mtime_ns, stat.st_size)}\n".encode())
    if yarn:
        total.update(f"yarn:{yarn.factor}:{yarn.native_tokens}\n".encode())
    return total.hexdigest()


@lru_cache(maxsize=256)
def _digest(path: Path, mtime_ns: int, size: int) -> str:  # noqa: ARG001 - part of the cache's key
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _preferences(folder: Path) -> dict[str, Any]:
    path = folder / "video_preprocessor_config.json"
    if not path.is_file():
        return {}
    found = _read_object(path).get("longtake", {})
    return found if isinstance(found, dict) else {}


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is no JSON object; download the checkpoint again.")
    return found


def _wish(folder: Path, key: str) -> Fraction | None:
    """One positive number that the checkpoint advises, if it does."""
    given = _preferences(folder).get(key)
    if given is None:
        return None
    try:
        if (wish := Fraction(str(given))) > 0:
            return wish
    except (ValueError, ZeroDivisionError):
        pass
    raise ConfigError(
        f"{folder} advises {key} {given!r} in its video_preprocessor_config.json; write a number "
        "above zero."
    )


def _native(folder: Path, spec: CheckpointSpec) -> int:
    """Longest sequence that the checkpoint is made for: its advice, else its config."""
    return int(_wish(folder, "context_tokens") or spec.text.max_positions)


def _advice(folder: Path) -> SamplingAdvice:
    tokens = _wish(folder, "pair_tokens")
    return SamplingAdvice(_wish(folder, "fps"), int(tokens) if tokens else None)
