"""Decoder layers → devices, where one device is too small. Arithmetic only; imports no torch.

Promises whole layers in contiguous runs, so that a token crosses from one device to the next once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from schemas.errors import ResourceError

CACHE_SHARE = 0.4
"""Of the first device's free memory: what the weights must leave to the KV cache and the chunk if
other devices could take a part of them."""
_STEPS = 1000
"""Runs are balanced to this part of a device's free memory."""


def place_layers(
    layer_bytes: Sequence[int], first_extra: int, last_extra: int, free: Sequence[int]
) -> tuple[int, ...]:
    """The device index of each layer, given what every device has free; all sizes in bytes.

    `first_extra` (embedding, vision tower) lies on device 0; `last_extra` (norm, head) goes with
    the last layer. All on device 0 where that leaves room for the cache; else runs that fill the
    devices to an equal share. Raises ResourceError where the devices cannot hold the weights.
    """
    sizes = [*layer_bytes[:-1], layer_bytes[-1] + last_extra]
    total = first_extra + sum(sizes)
    if total <= free[0] * (1 - CACHE_SHARE):
        return (0,) * len(sizes)
    if len(_fill(sizes, first_extra, free, _STEPS)) < len(sizes):
        raise ResourceError(_missing(sizes, first_extra, free), reason="out_of_memory")

    def holds(step: int) -> bool:
        return len(_fill(sizes, first_extra, free, step)) == len(sizes)

    step = bisect_left(range(_STEPS), True, key=holds)
    return tuple(_fill(sizes, first_extra, free, step))


def _fill(sizes: Sequence[int], first_extra: int, free: Sequence[int], step: int) -> list[int]:
    """Devices of as many layers as fit, in order, if each is filled to `step` / _STEPS."""
    rooms = [bytes_ * step // _STEPS for bytes_ in free]
    rooms[0] -= first_extra
    places: list[int] = []
    if rooms[0] < 0:
        return places
    device = 0
    for size in sizes:
        while device < len(rooms) and size > rooms[device]:
            device += 1
        if device == len(rooms):
            break
        rooms[device] -= size
        places.append(device)
    return places


def _missing(sizes: Sequence[int], first_extra: int, free: Sequence[int]) -> str:
    placed = len(_fill(sizes, first_extra, free, _STEPS))
    total = first_extra + sum(sizes)
    # Whole layers leave gaps, so that less than the sum of all devices may be usable.
    held = first_extra + sum(sizes[:placed]) if first_extra <= free[0] else 0
    lacking = total - held
    gib = 1024**3
    return (
        f"the weights need {total / gib:.2f} GiB, {sum(free) / gib:.2f} GiB are free on "
        f"{len(free)} devices, and {lacking / gib:.2f} GiB found no place; choose a smaller "
        "checkpoint, model.dtype bfloat16, or a larger machine."
    )
