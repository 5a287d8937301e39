"""What the fused attention kernel is given."""

from __future__ import annotations

from enum import IntEnum, auto


class Arg(IntEnum):
    """The kernel's arguments: one array of 64-bit integers, addresses and strides in bytes."""

    COUNTER = 0
    """Next task; threads take tasks by counting it up."""
    TASKS = auto()
    HEADS = auto()
    """KV heads."""
    ROWS = auto()
    """Query rows per KV head: tokens × grouped heads, token by token."""
    TASK_ROWS = auto()
    KEYS = auto()
    PART_KEYS = auto()
    """Keys of one part: parts of a long cache are summed apart, each with a state of its own."""
    QUERIES = auto()
    QUERY_STRIDE = auto()
    """From head to head."""
    STATE_ROWS = auto()
    """Rows of the state from head to head."""
    PART_STATE_ROWS = auto()
    """Rows of the state from part to part."""
    KEY_DATA = auto()
    KEY_STRIDE = auto()
    VALUE_DATA = auto()
    VALUE_STRIDE = auto()
    LIMIT = auto()
    """Keys that the first token's rows see; each later token sees one more."""
    GROUP = auto()
    """Rows of one token."""
    PEAK = auto()
    TOTAL = auto()
    MIXED = auto()
    SCALE = auto()
    """float32 bits of the scale × log2(e): exponentials are powers of two."""
    KEY_SCALES = auto()
    KEY_SCALE_STRIDE = auto()
    VALUE_SCALES = auto()
    VALUE_SCALE_STRIDE = auto()
