"""Checkpoint name → ModelFacts and prompt layout, without loading weights. Imports no torch.

A name is `nano`, a folder, or a hub id. Only safetensors are read: a pickle can run code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from model import hub, memory
from model.prompt import PromptLayout
from model.spec import CheckpointSpec, read_spec
from model.tokenizer import TextTokenizer
from model.weight_files import WeightFile, digest_file, read_object, read_weight_files
from model.yarn import Yarn, choose_yarn
from schemas.errors import ConfigError
from schemas.ports import ModelFacts, SamplingAdvice

NANO = Path(__file__).with_name("nano")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that is known and not loaded; its weights need not be in the folder yet."""

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
    weights: bool = True,
) -> Checkpoint:
    """Find a checkpoint and read what it is. Raises ConfigError or ResourceError.

    A `context` beyond its own length turns on YaRN; `yarn` is a factor of the caller's own. Without
    `weights` a hub id costs a few small files, and the same facts come of it.
    """
    folder, described = _find(name, weights)
    spec = read_spec(folder)
    dtype = _choose_dtype("dtype", dtype, spec.dtype, tuple(memory.DTYPE_BYTES))
    kv_dtype = _choose_dtype("kv_cache", kv_dtype, dtype, memory.KV_DTYPES)
    stretch, context_tokens = choose_yarn(name, spec, _native(folder, spec), context, yarn)
    # Whatever is wrong with the settings has been said by now: this reads every byte.
    files = read_weight_files(folder) if described is None else described
    layout = PromptLayout(spec, TextTokenizer(folder), outer_wrapper=outer_wrapper)
    facts = ModelFacts(
        name=name,
        digest=digest_checkpoint(folder, files, stretch, thinks=layout.thinks),
        token_px=spec.token_px,
        context_tokens=context_tokens,
        weight_bytes=memory.count_parameters(files, spec) * memory.DTYPE_BYTES[dtype],
        kv_bytes_per_token=memory.kv_bytes_per_token(spec, kv_dtype),
        chunk_bytes_per_token=memory.chunk_bytes_per_token(spec, dtype),
        fixed_bytes=memory.fixed_bytes(spec, dtype),
        advice=_advice(folder),
        kv_tail_bytes=memory.kv_tail_bytes(spec, kv_dtype),
        fork_bytes_per_token=memory.kv_bytes_per_token(
            spec, dtype if kv_dtype == "int8" else kv_dtype
        ),
        int8_kv_bytes_per_token=memory.kv_bytes_per_token(spec, "int8"),
        int8_kv_tail_bytes=memory.kv_tail_bytes(spec, "int8"),
        yarn_factor=stretch.factor if stretch else spec.text.rope_factor,
    )
    return Checkpoint(folder, spec, layout, facts, dtype, kv_dtype, stretch)


def _choose_dtype(setting: str, asked: str, own: str, accepted: tuple[str, ...]) -> str:
    """The dtype that a setting means; weights stored in any other are read as bfloat16."""
    if asked == "auto":
        return own if own in accepted else "bfloat16"
    if asked not in accepted:
        names = f"auto, {', '.join(accepted[:-1])} or {accepted[-1]}"
        raise ConfigError(f"model.{setting} is {asked!r}; write {names}.")
    return asked


def find_folder(name: str) -> Path | None:
    """The folder that a name means on this machine; None for a hub id. Raises ConfigError."""
    if name == "nano":
        return NANO
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.absolute()
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ConfigError(
            f"model {name!r} is no folder; name `nano`, a checkpoint folder, or a hub id "
            "such as Qwen/Qwen3-VL-8B-Instruct."
        )
    return None


def _find(name: str, weights: bool) -> tuple[Path, tuple[WeightFile, ...] | None]:
    """Where a checkpoint lies, and its weight files where they are not there but described."""
    if folder := find_folder(name) or hub.cached_folder(name):
        return folder, None
    return (hub.fetch(name), None) if weights else hub.describe(name)


def digest_checkpoint(
    folder: Path, weights: Sequence[WeightFile], yarn: Yarn | None, *, thinks: bool
) -> str:
    """SHA-256 over config, tokenizer, weights, YaRN and thinking, hex: names the model as it
    computes."""
    total = hashlib.sha256()
    small = [folder / "config.json", folder / "tokenizer.json"]
    named = [(path.name, digest_file(path)) for path in small if path.is_file()]
    for name, digest in [*named, *((file.name, file.sha256) for file in weights)]:
        total.update(f"{name}:{digest}\n".encode())
    if yarn:
        total.update(f"yarn:{yarn.factor}:{yarn.native_tokens}\n".encode())
    if thinks:
        total.update(b"thinks\n")
    return total.hexdigest()


def _preferences(folder: Path) -> dict[str, Any]:
    path = folder / "video_preprocessor_config.json"
    if not path.is_file():
        return {}
    found = read_object(path).get("longtake", {})
    return found if isinstance(found, dict) else {}


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
