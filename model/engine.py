"""The loaded model behind the ports: begin a session or take up a saved one."""

from __future__ import annotations

from pathlib import Path

import torch

from model.calibration import pair_seconds
from model.devices import compute_devices, free_on
from model.facts import Checkpoint, load_checkpoint
from model.fused import has_bf16, runs_here
from model.generate import GrammarTable
from model.kv_cache import CacheForm, KvCache
from model.memory import RUNTIME_BYTES, slice_tokens
from model.prefill import run_tokens
from model.prompt import PromptLayout
from model.session import Filling
from model.timeline import TimedTokens
from model.vision import VisionEncoder
from model.weights import DTYPES, Weights, load_weights
from schemas.errors import InvariantError, ResourceError
from schemas.plan import VideoPlan
from schemas.ports import ModelFacts


def load_model(
    name: str,
    *,
    dtype: str = "auto",
    kv_dtype: str = "auto",
    context: int | None = None,
    yarn: float | None = None,
    prefill_chunk: int = 8192,
    threads: int | None = None,
    outer_wrapper: bool = False,
) -> LoadedModel:
    """Load a checkpoint. Raises ConfigError, or ResourceError where it does not fit.

    `threads` is torch's own choice when None; `outer_wrapper` is a matter of the prompt's layout.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = load_checkpoint(
        name,
        dtype=dtype,
        kv_dtype=kv_dtype,
        outer_wrapper=outer_wrapper,
        context=context,
        yarn=yarn,
    )
    facts, free = checkpoint.facts, free_bytes()
    if (need := facts.weight_bytes + facts.fixed_bytes - RUNTIME_BYTES) > free:
        raise ResourceError(
            f"the weights of {name} need {_gib(need)} and {_gib(free)} are free; choose a smaller "
            "checkpoint, model.dtype bfloat16, or a larger machine.",
            reason="out_of_memory",
        )
    weights = load_weights(checkpoint.folder, checkpoint.spec, checkpoint.dtype, checkpoint.yarn)
    return LoadedModel(checkpoint, weights, prefill_chunk)


def list_devices() -> list[str]:
    """Devices that torch can use here, by name, and how the CPU would attend."""
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    products = "bfloat16" if has_bf16() else "float32, no AVX-512 BF16"
    kernel = f"fused attention in {products}" if runs_here() else "torch's attention, no AVX2"
    return [*names, f"cpu ({torch.get_num_threads()} threads, {kernel})"]


def free_bytes() -> int:
    """Memory that this process may still plan with, in bytes, on all devices together."""
    return sum(free_on(compute_devices()))


def _gib(count: int) -> str:
    return f"{count / 1024**3:.2f} GiB"


class LoadedModel:
    """A checkpoint in memory; holds no state of any session."""

    def __init__(self, checkpoint: Checkpoint, weights: Weights, prefill_chunk: int) -> None:
        self.checkpoint = checkpoint
        self.weights = weights
        self.vision = VisionEncoder(weights.vision, checkpoint.spec.vision)
        self.slice_tokens = min(prefill_chunk, slice_tokens(checkpoint.spec, checkpoint.dtype))
        self.cache_form = CacheForm(
            checkpoint.spec.text,
            DTYPES[checkpoint.kv_dtype],
            weights.dtype,
            weights.layer_devices,
        )
        vocab = weights.text.embed_tokens.weight.shape[0]
        self.grammars = GrammarTable(
            checkpoint.counter.tokenizer, vocab, min(checkpoint.counter.end_ids)
        )

    @property
    def facts(self) -> ModelFacts:
        return self.checkpoint.facts

    @property
    def counter(self) -> PromptLayout:
        return self.checkpoint.counter

    def pair_seconds(self) -> float:
        """Seconds that one token's attention costs per token before it, measured anew."""
        return pair_seconds(self.cache_form)

    def begin(self, plan: VideoPlan) -> Filling:
        """Reserve the KV cache for `plan`. Raises ResourceError when memory is short."""
        self._check(plan)
        return Filling.start(self, plan)

    def resume(self, plan: VideoPlan, path: Path, video_id: str) -> Filling:
        """Take up a session that `save` wrote, as far as it was filled.

        Raises ConfigError where it is of another model, another video or another plan, and
        ResourceError when memory is short.
        """
        self._check(plan)
        return Filling.resume(self, plan, path, video_id)

    def _check(self, plan: VideoPlan) -> None:
        if plan.sampling.grid.token_px != self.facts.token_px:
            raise InvariantError(
                f"the plan's tokens cover {plan.sampling.grid.token_px} pixels a side; those of "
                f"{self.facts.name} cover {self.facts.token_px}."
            )
        # The libraries are loaded by now; frames that wait do so in main memory.
        kv, chunk = plan.memory.kv_bytes, max(0, plan.memory.chunk_bytes - RUNTIME_BYTES)
        if self.weights.device.type == "cpu":
            chunk += plan.memory.waiting_bytes
        devices = self.weights.layer_devices
        for device, free in zip(
            unique := sorted(set(devices), key=str), free_on(unique), strict=True
        ):
            share = kv * devices.count(device) // len(devices)
            if share + chunk > free:
                fits = plan.total_tokens * max(0, free - chunk) // max(1, share)
                raise ResourceError(
                    f"{plan.total_tokens} tokens need {_gib(share)} for the KV cache and "
                    f"{_gib(chunk)} for a chunk on {device}, and {_gib(free)} are free there; "
                    f"{fits} tokens would fit: lower model.context, model.prefill_chunk or "
                    "sampling.fps, or set model.kv_cache int8.",
                    reason="out_of_memory",
                )

    def new_cache(self, capacity: int) -> KvCache:
        """An empty cache of this checkpoint's geometry."""
        try:
            return KvCache(self.cache_form, capacity)
        except RuntimeError as error:  # what torch raises where the system refuses memory
            raise ResourceError(
                f"a KV cache of {capacity} tokens could not be reserved ({error}); lower "
                "model.context or sampling.fps.",
                reason="out_of_memory",
            ) from None

    def prefill(self, tokens: TimedTokens, cache: KvCache) -> None:
        """Append tokens that nobody reads, `slice_tokens` at a time."""
        for start in range(0, len(tokens), self.slice_tokens):
            stop = min(len(tokens), start + self.slice_tokens)
            run_tokens(self.weights, tokens.slice(start, stop), cache, read=0)
