"""What a machine gives a second process that decodes and shares nothing with the first: no cluster,
no model, no rows. More than that no arrangement of decoders can gain on it.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av

from jobs.children import Child, Limits, one_child

Part = tuple[str, float, float]
"""A film and two times in seconds."""


def decode_part(part: Part) -> int:
    """Frames between two times, every 48th brought to RGB; how many there are."""
    path, first_s, end_s = part
    count = 0
    with av.open(path) as film:
        stream = film.streams.video[0]
        stream.codec_context.thread_count = 1
        film.seek(round(first_s * av.time_base))
        for frame in film.decode(stream):
            if frame.time is None or frame.time < first_s:
                continue
            if frame.time >= end_s:
                break
            if count % 48 == 0:
                frame.to_ndarray(format="rgb24", threads=1)
            count += 1
    return count


def gain_of_two(film: Path, film_s: float) -> float:
    """How many times as fast two processes decode a film as one."""
    halves = [(str(film), 0.0, film_s / 2), (str(film), film_s / 2, film_s)]
    with one_child() as first, one_child() as second, ThreadPoolExecutor(2) as threads:
        for child in (first, second):  # Their imports are behind them then.
            child.call(decode_part, (str(film), 0.0, 4.0), Limits())

        def work(call: tuple[Child, list[Part]]) -> None:
            child, parts = call
            for part in parts:
                child.call(decode_part, part, Limits())

        def seconds(*calls: tuple[Child, list[Part]]) -> float:
            started = time.monotonic()
            list(threads.map(work, calls))
            return time.monotonic() - started

        return seconds((first, halves)) / seconds((first, halves[:1]), (second, halves[1:]))
