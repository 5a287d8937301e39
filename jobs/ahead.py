"""One thread ahead of its reader: what overlaps decoding with prefill inside one process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def ahead(make: Callable[[], Iterable[T]], depth: int) -> Iterator[T]:
    """Run an iterable in a thread, at most `depth` items ahead of its reader.

    An error in the thread is raised in the reader; a reader that stops early stops the thread.
    """
    items: queue.Queue[tuple[T | None, BaseException | None, bool]] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: tuple[T | None, BaseException | None, bool]) -> bool:
        while not stop.is_set():
            try:
                items.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for value in make():
                if not put((value, None, False)):
                    return
        except BaseException as error:  # noqa: BLE001 - handed to the reader, who raises it
            put((None, error, True))
        else:
            put((None, None, True))

    thread = threading.Thread(target=work, name="decode-ahead", daemon=True)
    thread.start()
    try:
        while True:
            value, error, last = items.get()
            if error is not None:
                raise error
            if last:
                return
            yield value  # type: ignore[misc]  # only the last item carries no value
    finally:
        stop.set()
        thread.join()
