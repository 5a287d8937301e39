"""The command line: reads arguments, prints, exits. Nothing else does any of the three.

Data goes to stdout, messages to stderr. Exit codes: 0 done, 2 usage, 3 done with failed rows, 4 bad
input or config, 5 resources or cluster missing, 130 interrupted (the same command goes on).
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape

from jobs import doctor as doctor_room
from jobs.plan_job import plan_job
from jobs.provenance import longtake_version
from jobs.run_batch import BatchSummary
from jobs.session import run_job
from jobs.show import (
    EventFilter,
    events_table,
    json_lines,
    open_output,
    plans_table,
    select_events,
)
from jobs.worker import Role, WorkerSettings
from jobs.worker import serve as serve_worker
from schemas.errors import ConfigError, LongtakeError
from schemas.job import JobSpec, read_job

app = typer.Typer(
    name="longtake",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
ModelName = Annotated[
    str,
    typer.Option(
        help="`nano`, a checkpoint folder, or a hub id such as Qwen/Qwen3-VL-8B-Instruct."
    ),
]
Fps = Annotated[float | None, typer.Option(help="Frames per second to look at.")]
Context = Annotated[str | None, typer.Option(help="Longest context, for example 256k.")]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Use the workers of this Dask scheduler."),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Allow another machine without TLS: trusted networks.")
]


def _err() -> Console:
    return Console(stderr=True, highlight=False)


def _out() -> Console:
    console = Console(highlight=False)
    # A pipe has no width; a table cut to 80 columns would lose data.
    return console if console.is_terminal else Console(highlight=False, width=200)


def _say_version(wanted: bool) -> None:
    if wanted:
        _print(f"longtake {longtake_version()}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    """Hours of video to a table of timestamped events, in one long-context pass."""


@app.command()
def find(
    text: Annotated[str, typer.Argument(help="What to look for, in words.")],
    videos: Annotated[list[str], typer.Argument(help="Files, folders or patterns.")],
    output: Annotated[str, typer.Option(help="Folder for the Parquet.")] = "out/find",
    model: ModelName = "nano",
    fps: Fps = None,
    context: Context = None,
    scheduler: Scheduler = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Find when something is visible, in one or many videos.

    Example: longtake find "a red circle" lectures/*.mp4 --output out/red
    """
    query = {"id": query_id(text), "find": text}
    job = _short_job(videos, model, fps, context, {"queries": [query], "output": output})
    summary = _do(_on_cluster(job, scheduler, insecure))
    _print_events(output, EventFilter(query=query["id"]), as_json)
    _finish(summary, job)


@app.command()
def run(
    job_file: Annotated[str, typer.Argument(metavar="JOB.yaml", help="The job file.")],
    scheduler: Scheduler = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Do a job, or what is left of it.

    The same command again finishes what is missing and repeats nothing that is done.
    """
    job = _on_cluster(load_job(job_file), scheduler, insecure)
    summary = _do(job)
    if as_json:
        _print(json.dumps(_summary_facts(summary, job)))
    _finish(summary, job)


@app.command()
def plan(
    job_file: Annotated[
        str | None, typer.Argument(metavar="[JOB.yaml]", help="The job file.")
    ] = None,
    video: Annotated[list[str] | None, typer.Option(help="A video instead of a job file.")] = None,
    model: ModelName = "nano",
    fps: Fps = None,
    context: Context = None,
    as_json: Json = False,
) -> None:
    """Show frames, tokens and memory a job needs."""
    if (job_file is None) == (not video):
        raise typer.BadParameter("give either a JOB.yaml or --video FILE.")
    if job_file is not None:
        job = load_job(job_file)
    else:
        extra = {"queries": [{"id": "plan", "find": "anything"}]}
        job = _short_job(video or [], model, fps, context, extra)
    plans, problems = plan_job(job)
    if as_json:
        for facts in plans:
            _print(json.dumps(facts))
    elif plans:
        _out().print(plans_table(plans))
        _out().print(
            f"total: {len(plans)} videos, {sum(p['total_tokens'] for p in plans):,} tokens"
        )
    for problem in problems:
        _err().print(escape(problem.message), soft_wrap=True)
    if problems:
        raise typer.Exit(max(problem.exit_code for problem in problems))


@app.command()
def events(
    folder: Annotated[str, typer.Argument(metavar="OUT", help="Output folder of a job.")],
    query: Annotated[str | None, typer.Option(help="Only this query id.")] = None,
    video: Annotated[str | None, typer.Option(help="Only videos whose path holds this.")] = None,
    after: Annotated[
        float | None, typer.Option(help="Only events that end after, in seconds.")
    ] = None,
    before: Annotated[
        float | None, typer.Option(help="Only events that start before, in seconds.")
    ] = None,
    min_confidence: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    as_json: Json = False,
) -> None:
    """Show the events of an output folder."""
    _print_events(folder, EventFilter(query, video, after, before, min_confidence), as_json)


@app.command()
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
    serve_worker(settings, lambda line: _err().print(line, markup=False, soft_wrap=True))


@app.command()
def doctor(model: ModelName = "nano", as_json: Json = False) -> None:
    """Show what is installed and what would run where."""
    facts = doctor_room.examine(model)
    if as_json:
        _print(json.dumps(facts))
        return
    for name, value in facts.items():
        _print(f"{name:<10} {_flat(value)}")


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def query_id(text: str) -> str:
    """A query id from words: `a red circle` → `a_red_circle`."""
    words = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return (words if words[:1].isalpha() else f"q_{words}")[:64]


def load_job(path: str) -> JobSpec:
    """Read a job file. Raises ConfigError with one sentence per mistake."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise ConfigError(f"job file {path} cannot be read ({why}); check the path.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError(f"job file {path} is not YAML{line}; mend it there.") from None
    return read_job(data, where=path)


def _short_job(
    videos: list[str], model: str, fps: float | None, context: str | None, extra: dict[str, Any]
) -> JobSpec:
    data = {
        "name": "find",
        "videos": videos,
        "model": {"name": model, "context": context},
        "sampling": {"fps": fps},
        **extra,
    }
    return read_job(data, where="command line")


def _on_cluster(job: JobSpec, scheduler: str | None, insecure: bool) -> JobSpec:
    """What the command line says of the cluster comes before what the job file says."""
    said: dict[str, Any] = {}
    if scheduler is not None:
        said |= {"scheduler": scheduler, "executor": "dask"}
    if insecure:
        said["insecure"] = True
    return job.model_copy(update={"cluster": job.cluster.model_copy(update=said)})


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _print_events(folder: str, chosen: EventFilter, as_json: bool) -> None:
    found = select_events(open_output(folder), chosen)
    if as_json:
        for line in json_lines(found):
            _print(line)
    elif found.is_empty():
        _err().print("No events.")
    else:
        _out().print(events_table(found))


def _summary_facts(summary: BatchSummary, job: JobSpec) -> dict[str, Any]:
    return {
        "output": job.output,
        "kept_videos": summary.num_kept,
        "events": summary.num_events,
        "requests": dict(summary.statuses),
        "failed": [
            {"video": uri, "query": row.query_id, "reason": row.reason, "message": row.message}
            for uri, row in summary.failures
        ],
    }


def _finish(summary: BatchSummary, job: JobSpec) -> None:
    console = _err()
    for message in dict.fromkeys(row.message for _, row in summary.failures):
        console.print(f"failed: {message}", markup=False, soft_wrap=True)
    kept = f", {summary.num_kept} videos done before" if summary.num_kept else ""
    console.print(
        f"{_events(summary.num_events)}, {_counts(summary)}{kept}. Parquet: {job.output}/events",
        markup=False,
        soft_wrap=True,
    )
    if summary.failures:
        raise typer.Exit(3)


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"


def _counts(summary: BatchSummary) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in sorted(summary.statuses.items()))
    return f"requests: {counts or 'none new'}"


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except LongtakeError as error:
        _err().print(f"longtake: {error.message}", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)


def _do(job: JobSpec) -> BatchSummary:
    """Run a job; an interrupt leaves what is committed and says how to go on."""
    try:
        return run_job(job, _err())
    except KeyboardInterrupt:
        _err().print("Interrupted; what was done is kept. Run the same command again to go on.")
        raise typer.Exit(130) from None


if __name__ == "__main__":
    main()
