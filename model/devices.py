"""What torch can compute on here, and how much memory each device may still be planned with."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model.machine import available_bytes

_HEADROOM = 0.95
"""Share of the free memory that may be planned with."""


def compute_devices() -> tuple[torch.device, ...]:
    """Every GPU in order, or the CPU where there is none."""
    gpus = tuple(torch.device("cuda", i) for i in range(torch.cuda.device_count()))
    return gpus or (torch.device("cpu"),)


def free_on(devices: Sequence[torch.device]) -> tuple[int, ...]:
    """Bytes that may still be planned with on each device."""
    return tuple(int(_free(device) * _HEADROOM) for device in devices)


def _free(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
