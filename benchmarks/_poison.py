"""Poison videos: a stand-in for the decoder that dies, hangs or swells by the name of its file.

No file is known that does these things to every version of the decoder, so the last step before it
is replaced: `answer_unit` here swaps `decode_piece` for `poisoned_piece` on the model worker, which
sends it to the decoder's own child process. Everything else is the product's.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from jobs import run_batch
from pipeline.run import decode_piece
from schemas.events import VideoResult
from schemas.media import FrameBatch, StreamIndex
from schemas.plan import Chunk, FrameGrid

Piece = tuple[StreamIndex, Chunk, FrameGrid]
REASONS = {"crash": "decoder_crashed", "loop": "time_limit", "bomb": "decode_memory"}
"""Kind of poison → the reason that its rows must have."""
TRIES = "tries"
"""A folder beside the videos; each attempt at a poisoned file leaves a byte there."""

_answer_unit = run_batch.answer_unit


def answer_unit(*arguments: Any) -> VideoResult:
    """The batch's own, over the decoder of this module."""
    run_batch.decode_piece = poisoned_piece  # type: ignore[attr-defined]
    return _answer_unit(*arguments)


def poisoned_piece(piece: Piece) -> FrameBatch:
    """`decode_piece`, unless the file's name begins with a kind of poison."""
    path = Path(piece[0].source.path)
    kind = path.stem.split("_")[0]
    if kind in REASONS:
        with (path.parent / TRIES / path.name).open("ab") as file:
            file.write(b"x")
        {"crash": os.abort, "loop": hold_interpreter, "bomb": take_memory}[kind]()
    return decode_piece(piece)


def hold_interpreter() -> None:
    """Wait for ever and never let another thread of Python run."""
    ctypes.PyDLL(None).pause()


def take_memory() -> None:
    """Take memory, and touch it, for as long as there is any."""
    taken = []
    while True:
        taken.append(bytearray(os.urandom(1) * (16 * 1024**2)))
