"""`longtake worker`: the verb that lends this machine to a cluster. Part of the command line."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from jobs.console import say
from jobs.worker import Role, WorkerSettings, serve

Insecure = Annotated[
    bool, typer.Option("--insecure", help="Allow another machine without TLS: trusted networks.")
]


def worker(
    address: Annotated[str, typer.Argument(help="The scheduler, for example tcp://10.0.0.5:8786.")],
    role: Annotated[Role, typer.Option(help="Hold a model, decode, or do both.")] = "both",
    decoders: Annotated[
        int, typer.Option(min=1, help="Chunks decoded at once, each in its own process.")
    ] = 1,
    threads: Annotated[
        int, typer.Option(min=0, help="Threads of the model's arithmetic; 0: one a core.")
    ] = 0,
    memory_limit: Annotated[
        str, typer.Option(help="Memory of the worker, for example 16GiB; 0: no limit.")
    ] = "0",
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    name: Annotated[str | None, typer.Option(help="Name that the scheduler shows.")] = None,
    insecure: Insecure = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for a missing scheduler.")] = 300.0,
) -> None:
    """Start a worker for `run --scheduler ADDRESS`; Ctrl-C ends it.

    It comes back by itself when its process dies, or when the scheduler was away for a while.

    Example: longtake worker tcp://127.0.0.1:8786 --role decode --decoders 4
    """
    settings = WorkerSettings(
        address,
        role,
        decoders,
        threads or os.cpu_count() or 1,
        memory_limit,
        host,
        name,
        insecure,
        wait,
    )
    serve(settings, say)
