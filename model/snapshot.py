"""A session on disk: one safetensors file, bound to the model, the video and the plan it came from.

Written to a temporary name, flushed and renamed, one head of one layer at a time, so that saving
needs no second copy of the cache. A session that a file does not belong to refuses it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.kv_cache import CacheForm, KvCache
from schemas.errors import ConfigError
from schemas.plan import VideoPlan

Facts = dict[str, str]
"""What a file says of its session."""

_FORMAT = "longtake-session-2"
_DIGEST, _UNKNOWN = "sha256", "?" * 64
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int8: "I8"}
_MEANING = {
    "format": "another version of this file format",
    "model": "another model",
    "video": "another video",
    "tokens": "another sampling of the video or another prompt",
    "cache": "another form of the KV cache",
}


def describe(
    plan: VideoPlan,
    num_chunks: int,
    *,
    model_digest: str,
    prefix_ids: list[int],
    video_id: str,
    form: CacheForm,
) -> Facts:
    """What a session is that has the first `num_chunks` of a plan in it."""
    digest = hashlib.sha256()
    span, grid = plan.sampling.span, plan.sampling.grid
    digest.update(f"{prefix_ids} {grid} {span.time_base}\n".encode())
    for chunk in plan.chunks[:num_chunks]:
        for pair in chunk.pairs:
            digest.update(f"{pair}\n".encode())
    return {
        "format": _FORMAT,
        "model": model_digest,
        "video": video_id,
        "tokens": digest.hexdigest(),
        "cache": f"{form.layout}, {form.dtype} under {form.compute_dtype}",
        "num_chunks": str(num_chunks),
    }


def corrupt_facts(corrupt: Sequence[int]) -> Facts:
    """What is kept of each chunk's frames that could not be decoded."""
    return {"corrupt": json.dumps(list(corrupt))}


def corrupt_of(facts: Facts) -> list[int]:
    """The counts that `corrupt_facts` kept."""
    return [int(count) for count in json.loads(facts["corrupt"])]


def refuse_others(path: Path, found: Facts, expected: Facts) -> None:
    """Raises ConfigError where a file's session is not the expected one."""
    for key, meaning in _MEANING.items():
        if found.get(key) != expected[key]:
            raise ConfigError(
                f"{path} holds a session of {meaning} ({found.get(key, 'nothing')!r:.40} where "
                f"{expected[key]!r:.40} is needed); name another file, or delete it."
            )


def save(path: Path, cache: KvCache, facts: Facts) -> None:
    """Write what a cache holds, whole or not at all. Raises OSError where the disk refuses."""
    named = dict(_tensors(cache))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write(temporary, named, facts)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, named: Mapping[str, Tensor], facts: Facts) -> None:
    # The digest is known at the end only; its place is kept.
    header: dict[str, Any] = {"__metadata__": facts | {_DIGEST: _UNKNOWN}}
    at = 0
    for name, tensor in named.items():
        end = at + tensor.nbytes
        shape = list(tensor.shape)
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in named.values():
            for head in tensor:
                numbers = head.contiguous().cpu().view(torch.uint8).numpy()
                digest.update(numbers)
                file.write(numbers)
        file.seek(8)
        file.write(text.replace(_UNKNOWN.encode(), digest.hexdigest().encode()))
        file.flush()
        os.fsync(file.fileno())


def read_facts(path: Path) -> Facts:
    """What a file says of its session. Raises ConfigError where it is none."""
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = dict(file.metadata() or {})
        if re.fullmatch("[0-9]{1,9}", facts.get("num_chunks", "")):
            return facts
    except (OSError, SafetensorError):
        pass
    raise ConfigError(f"{path} holds no session; name another file, or prefill again.")


def restore(path: Path, cache: KvCache, num_tokens: int) -> None:
    """Read the `num_tokens` of a file's session into an empty cache of its form. Raises
    ConfigError where the file holds anything else."""
    cache.restore(num_tokens)
    try:
        if _digest(path) != read_facts(path).get(_DIGEST):
            raise _damaged(path, "other bytes than were written")
        with safe_open(str(path), framework="pt") as file:
            for name, tensor in _tensors(cache):
                source = file.get_slice(name)
                # Copying would stretch or convert what does not fit.
                found = source.get_dtype(), source.get_shape()
                if found != (_NAMES[tensor.dtype], list(tensor.shape)):
                    raise _damaged(path, f"{name} is {found}")
                for head in range(tensor.shape[0] if tensor.numel() else 0):
                    tensor[head : head + 1].copy_(source[head : head + 1])
    except (OSError, SafetensorError) as error:
        raise _damaged(path, type(error).__name__) from None


def _digest(path: Path) -> str:
    """SHA-256 of all that lies behind the header, hex."""
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        digest = hashlib.sha256()
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def _damaged(path: Path, what: str) -> ConfigError:
    return ConfigError(f"{path} is damaged ({what}); delete it and prefill again.")


def _tensors(cache: KvCache) -> Iterator[tuple[str, Tensor]]:
    for layer in range(cache.form.spec.layers):
        for name, tensor in cache.tensors(layer).items():
            yield f"{layer}.{name}", tensor
