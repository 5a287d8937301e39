"""What this machine has and what would run where: versions, decoder, devices, memory, model."""

from __future__ import annotations

import os
import platform
from typing import Any

import psutil

from jobs.provenance import library_versions, longtake_version
from jobs.tools import load_facts, torch_devices
from model.machine import available_bytes
from pipeline.probe import CODECS, decoder_versions
from schemas.errors import LongtakeError
from schemas.job import ClusterSpec, ModelSpec
from schemas.ports import ModelFacts

GIB = 1024**3


def examine(model: str) -> dict[str, Any]:
    """Every fact of this installation, by heading; a model that cannot be had is a fact too."""
    total = psutil.virtual_memory().total
    cluster = ClusterSpec()
    return {
        "longtake": longtake_version(),
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "libraries": library_versions(),
        "decoder": decoder_versions(),
        "codecs": sorted(CODECS),
        "cores": os.cpu_count(),
        "memory": f"{available_bytes() / GIB:.1f} GiB free of {total / GIB:.1f} GiB",
        "devices": torch_devices(),
        "cluster": f"{cluster.model_workers} model worker and {cluster.decode_workers} decoders, "
        "processes of an embedded Dask cluster on 127.0.0.1",
        "model": _model(model),
    }


def _model(name: str) -> dict[str, Any]:
    try:
        facts, _ = load_facts(ModelSpec(name=name))
    except LongtakeError as error:
        return {"name": name, "problem": error.message}
    narrow = facts.as_int8() or facts
    return {
        "name": facts.name,
        "digest": facts.digest[:16],
        "context": facts.context_tokens,
        "yarn_factor": facts.yarn_factor,
        "weights": f"{facts.weight_bytes / GIB:.2f} GiB",
        "kv_bytes_per_token": facts.kv_bytes_per_token,
        "tokens_that_fit": _tokens_that_fit(facts),
        "tokens_that_fit_int8": _tokens_that_fit(narrow),
    }


def _tokens_that_fit(facts: ModelFacts) -> int:
    return min(facts.context_tokens, facts.session_tokens(available_bytes(), 0))
