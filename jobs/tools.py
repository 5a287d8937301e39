"""The model as jobs see it: facts without torch for the client, the loaded model for workers."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable
from functools import partial

from model.facts import load_checkpoint
from schemas.errors import ResourceError
from schemas.job import ModelSpec
from schemas.ports import ModelFacts, PromptCounter, VideoModel


def load_facts(spec: ModelSpec) -> tuple[ModelFacts, PromptCounter]:
    """What a plan needs of the checkpoint; no weights are downloaded for it.

    Raises ConfigError or ResourceError.
    """
    checkpoint = load_checkpoint(
        spec.name,
        dtype=spec.dtype,
        kv_dtype=spec.kv_cache,
        context=spec.context,
        yarn=spec.yarn,
        weights=False,
    )
    return checkpoint.facts, checkpoint.counter


def make_model(spec: ModelSpec, digest: str) -> VideoModel:
    """Load the checkpoint that the job names, if it has the digest that the client knows.

    Raises ConfigError or ResourceError.
    """
    # Seconds of import and hundreds of MiB that the client and the decode workers must not pay.
    engine = importlib.import_module("model.engine")
    model: VideoModel = engine.load_model(
        spec.name,
        dtype=spec.dtype,
        kv_dtype=spec.kv_cache,
        context=spec.context,
        yarn=spec.yarn,
        prefill_chunk=spec.prefill_chunk,
    )
    if model.facts.digest != digest:
        raise ResourceError(
            f"{spec.name} on {platform.node()} has the digest {model.facts.digest[:12]} and not "
            f"{digest[:12]} as here; copy the same files there."
        )
    return model


def model_maker(spec: ModelSpec, digest: str) -> Callable[[], VideoModel]:
    """`make_model` with its arguments, in a form that goes to another process."""
    return partial(make_model, spec, digest)


def torch_devices() -> list[str]:
    """Devices that torch sees here, for `doctor`."""
    devices: list[str] = importlib.import_module("model.engine").list_devices()
    return devices
