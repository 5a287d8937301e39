"""Where a batch's workers are: an embedded cluster on loopback, or one that runs already.

Promises that nothing listens, and nobody is talked to, outside this machine without TLS unless
`insecure` says so: whoever reaches a scheduler's port may run code there.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import dask
from distributed import Client, Nanny, Scheduler, Security, SpecCluster

from schemas.errors import ConfigError, ResourceError

MODEL, DECODE = "longtake-model", "longtake-decode"
"""The resources that make a worker what it is: a MODEL unit for its model, a DECODE unit for each
decoder."""
_DECODERS_EACH = 4
"""Most decoders of one worker of the embedded cluster."""
CONFIG = {
    "logging": {"distributed": "critical"},
    "distributed.scheduler.work-stealing": False,
    # A worker that is stopped or hangs with the interpreter held is taken off after this time.
    "distributed.scheduler.worker-ttl": "120s",
    "distributed.worker.daemon": True,
    # A result that lies on a dead worker is computed again when it cannot be fetched: with 30 s a
    # connection and three retries that took up to 96 s.
    "distributed.comm.timeouts.connect": "10s",
    "distributed.comm.retry.count": 1,
    "distributed.admin.tick.limit": "60s",
    # Memory is predicted before a session starts; spilling could not free what the model holds.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
}


class Cluster(Protocol):
    """Somewhere to run."""

    can_return: bool
    """A scheduler that is lost may be found again at the same address."""

    def connect(self, within_s: float) -> Any:
        """A new client. Raises ResourceError where nobody answers in time."""
        ...

    def describe(self, client: Any) -> str:
        """Where it is, for people."""
        ...

    def close(self) -> None: ...


class EmbeddedCluster:
    """A scheduler in this process and a process for each worker, all on 127.0.0.1.

    `memory_limit`: of each worker, as Dask reads it; 0: none, because a plan is refused before it
    takes more than there is.
    """

    can_return = False

    def __init__(
        self, *, model_workers: int, decode_workers: int, memory_limit: int | str = 0
    ) -> None:
        with dask.config.set(CONFIG), _deaf_to_interrupts():
            self._cluster = SpecCluster(
                scheduler=_scheduler_spec(),
                workers=_worker_specs(model_workers, decode_workers, memory_limit),
                name="longtake",
                silence_logs=logging.CRITICAL,
            )

    def connect(self, within_s: float) -> Any:
        return Client(self._cluster, set_as_default=False, timeout=within_s)

    def describe(self, client: Any) -> str:
        return f"an embedded Dask cluster on this machine, dashboard {client.dashboard_link}"

    def close(self) -> None:
        self._cluster.close()


class RunningCluster:
    """A scheduler that somebody else started, with workers of `longtake worker`."""

    can_return = True

    def __init__(self, address: str, *, insecure: bool = False) -> None:
        self._address = checked_address(address, insecure=insecure)
        quieten()

    def connect(self, within_s: float) -> Any:
        try:
            return Client(self._address, set_as_default=False, timeout=within_s)
        except (OSError, TimeoutError, ImportError):
            raise ResourceError(
                f"no scheduler answers at {self._address}; start one with `dask scheduler --host "
                "HOST --port PORT`, or leave --scheduler out.",
                reason="no_scheduler",
            ) from None

    def describe(self, client: Any) -> str:
        return f"the cluster at {self._address}, dashboard {client.dashboard_link}"

    def close(self) -> None:
        """It is not ours."""


def quieten() -> None:
    """Lost connections are ours to speak of, in one sentence and without a traceback."""
    for name in ("distributed", *logging.root.manager.loggerDict):
        # Each of the library's loggers has a level of its own.
        if name.split(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def checked_address(address: str, *, insecure: bool) -> str:
    """The address with its protocol. Raises ConfigError where it is none or is not safe."""
    protocol, _, rest = address.rpartition("://")
    protocol = protocol or "tcp"
    host, colon, port = rest.rpartition(":")
    if not (colon and host and port.isdecimal()) or protocol not in ("tcp", "tls"):
        raise ConfigError(
            f"{address!r} is no address of a scheduler; write HOST:PORT, tcp://HOST:PORT or "
            "tls://HOST:PORT."
        )
    if protocol == "tls":
        _check_certificates(address)
    elif not insecure and not is_loopback(host):
        raise ConfigError(
            f"{address} is not on this machine and not encrypted: whoever reaches that port may "
            f"run code on every worker. Use tls://{rest}, or --insecure on a network you trust."
        )
    return f"{protocol}://{rest}"


def is_loopback(host: str) -> bool:
    """Is it this machine's own address? Names other than `localhost` are not looked up."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _check_certificates(address: str) -> None:
    known = Security().get_tls_config_for_role("client")
    if not all(known[name] for name in ("ca_file", "cert", "key")):
        raise ConfigError(
            f"{address} needs certificates and Dask knows of none; set "
            "DASK_DISTRIBUTED__COMM__TLS__CA_FILE and …__TLS__CLIENT__CERT and __KEY, or the same "
            "keys in ~/.config/dask/distributed.yaml."
        )


def _scheduler_spec() -> dict[str, Any]:
    options = {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}
    return {"cls": Scheduler, "options": options}


def _worker_specs(
    model_workers: int, decode_workers: int, memory_limit: int | str
) -> dict[str, Any]:
    maths = max(1, (os.cpu_count() or 1) // model_workers)
    # Decoders are processes of their own already; a worker only hands on what several make.
    shares = [min(_DECODERS_EACH, left) for left in range(decode_workers, 0, -_DECODERS_EACH)]
    workers = [(MODEL, 1, maths)] * model_workers + [(DECODE, share, 1) for share in shares]
    specs = {}
    for number, (role, count, threads) in enumerate(workers):
        options = nanny_options({role: count}, maths_threads=threads, memory_limit=memory_limit)
        options |= {"host": "127.0.0.1", "silence_logs": logging.CRITICAL}
        specs[f"{role.removeprefix('longtake-')}-{number}"] = {"cls": Nanny, "options": options}
    return specs


def nanny_options(
    resources: dict[str, int], *, maths_threads: int, memory_limit: int | str
) -> dict[str, Any]:
    """What a worker of ours is started with, embedded or not: one thread for each unit of work."""
    return {
        "nthreads": sum(resources.values()),
        "resources": resources,
        "dashboard": False,
        "memory_limit": memory_limit,
        # The nanny would pin maths to one thread; a model wants the cores.
        "env": {
            "OMP_NUM_THREADS": str(maths_threads),
            "MKL_NUM_THREADS": str(maths_threads),
            "TQDM_DISABLE": "1",
        },
        "config": CONFIG,
    }


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
