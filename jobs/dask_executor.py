"""The same executor on an embedded Dask cluster: loopback only, one process per worker.

Model workers hold the tool and run tasks; decode workers run the helper calls that tasks stream.
Results of helper calls go from worker to worker; the scheduler sees their names only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dask
from distributed import (
    Client,
    Nanny,
    Scheduler,
    SpecCluster,
    Worker,
    WorkerPlugin,
    as_completed,
    get_client,
    get_worker,
)

from jobs.executor import Item, Outcome, Report, Result, Task
from schemas.errors import LongtakeError, ResourceError

MODEL, DECODE = "longtake-model", "longtake-decode"
_TOPIC = "longtake-progress"
_TOOL = "longtake_tool"
_CONFIG = {
    "logging": {"distributed": "critical"},
    # A task that kills its worker is tried again once elsewhere, then given back as failed.
    "distributed.scheduler.allowed-failures": 1,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.no-workers-timeout": "60s",
    "distributed.worker.daemon": True,
    "distributed.comm.retry.count": 3,
    "distributed.admin.tick.limit": "60s",
    # Memory is predicted before a session starts; spilling could not free what the model holds.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
}


class ToolPlugin(WorkerPlugin):
    """Builds the tool once on each model worker, in a thread, so that heartbeats go on."""

    name = "longtake-tool"

    def __init__(self, make_tool: Callable[[], Any]) -> None:
        self._make_tool = make_tool

    async def setup(self, worker: Worker) -> None:
        if MODEL in worker.state.total_resources:
            setattr(worker, _TOOL, await asyncio.to_thread(self._make_tool))


class DaskContext:
    """A context inside a model worker."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._worker = get_worker()

    @property
    def tool(self) -> Any:
        return getattr(self._worker, _TOOL)

    def stream(
        self, function: Callable[[Item], Result], items: Sequence[Item], lookahead: int
    ) -> Iterator[Result]:
        client = get_client()
        waiting: deque[Any] = deque()
        rest = iter(enumerate(items))
        try:
            while True:
                # One more than the look-ahead: the one being read no longer waits.
                while len(waiting) <= lookahead and (following := next(rest, None)) is not None:
                    number, item = following
                    key = f"decode-{self._label}-{number}-{uuid.uuid4().hex[:8]}"
                    waiting.append(
                        client.submit(function, item, key=key, pure=False, resources={DECODE: 1})
                    )
                if not waiting:
                    return
                future = waiting.popleft()
                result = future.result()
                future.release()
                yield result
        finally:
            client.cancel(list(waiting))

    def report(self, message: Report) -> None:
        self._worker.log_event(_TOPIC, message)


def _run_task(task: Task[Item, Result], item: Item, label: str) -> Result:
    return task(DaskContext(label), item)


class DaskExecutor:
    """An embedded cluster: scheduler in this process, workers as child processes."""

    def __init__(
        self, make_tool: Callable[[], Any], *, model_workers: int, decode_workers: int
    ) -> None:
        with dask.config.set(_CONFIG), _deaf_to_interrupts():
            self._cluster = _start_cluster(model_workers, decode_workers)
            self._client = _connect(self._cluster)
        try:
            self._client.register_plugin(ToolPlugin(make_tool))
        except LongtakeError:
            self.close()
            raise
        except Exception as error:  # noqa: BLE001 - any failure to build the tool ends here
            self.close()
            raise ResourceError(
                f"the model workers could not load the model ({type(error).__name__}: {error}); "
                "run `longtake doctor` to see what this machine has."
            ) from None

    @property
    def client(self) -> Any:
        return self._client

    def describe(self) -> str:
        link = self._client.dashboard_link
        return f"an embedded Dask cluster on this machine, dashboard {link}"

    def run(
        self,
        task: Task[Item, Result],
        items: Sequence[Item],
        on_report: Callable[[Report], None],
    ) -> Iterator[Outcome[Item, Result]]:
        self._client.subscribe_topic(_TOPIC, lambda event: on_report(event[1]))
        futures = {
            self._client.submit(
                _run_task,
                task,
                item,
                str(number),
                key=f"task-{number}-{uuid.uuid4().hex[:8]}",
                pure=False,
                resources={MODEL: 1},
            ): item
            for number, item in enumerate(items)
        }
        for future in as_completed(list(futures), loop=self._client.loop):
            error = future.exception()
            result = future.result() if error is None else None
            future.release()
            yield Outcome(futures[future], result, error)

    def close(self) -> None:
        self._client.close()
        self._cluster.close()


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal; children born in here leave it to this one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start_cluster(model_workers: int, decode_workers: int) -> Any:
    return SpecCluster(
        scheduler=_scheduler_spec(),
        workers=_worker_specs(model_workers, decode_workers),
        name="longtake",
        silence_logs=logging.CRITICAL,
    )


def _connect(cluster: Any) -> Any:
    return Client(cluster, set_as_default=False)


def _scheduler_spec() -> dict[str, Any]:
    options = {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}
    return {"cls": Scheduler, "options": options}


def _worker_specs(model_workers: int, decode_workers: int) -> dict[str, Any]:
    cores = os.cpu_count() or 1
    model_threads = max(1, cores // model_workers)
    specs = {}
    for role, count, threads in (
        (MODEL, model_workers, model_threads),
        (DECODE, decode_workers, 1),
    ):
        for number in range(count):
            specs[f"{role.removeprefix('longtake-')}-{number}"] = {
                "cls": Nanny,
                "options": {
                    "nthreads": 1,
                    "resources": {role: 1},
                    "host": "127.0.0.1",
                    "dashboard": False,
                    "memory_limit": 0,
                    # The nanny would pin maths to one thread; a model worker wants the cores.
                    "env": {
                        "OMP_NUM_THREADS": str(threads),
                        "MKL_NUM_THREADS": str(threads),
                        "TQDM_DISABLE": "1",
                    },
                    "silence_logs": logging.CRITICAL,
                    "config": _CONFIG,
                },
            }
    return specs
