"""The command line: reads arguments, prints, exits. With `console` and `cli_output`, nothing else
does any of the three.

Data goes to stdout, messages to stderr. Exit codes: 0 done, 2 usage, 3 done with failed rows, 4 bad
input or config, 5 resources or cluster missing, 130 interrupted (the same command goes on).
"""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from jobs import cli_output
from jobs import doctor as doctor_room
from jobs.again import Again, read_where
from jobs.cli_needle import needle
from jobs.cli_worker import Insecure, worker
from jobs.console import Json, err, out, print_line, say
from jobs.plan_job import plan_job
from jobs.provenance import job_of, longtake_version, read_provenance
from jobs.run_batch import BatchSummary, Choose, is_open
from jobs.session import run_job
from jobs.show import (
    EventFilter,
    events_table,
    json_lines,
    open_output,
    plan_total,
    plans_table,
    select_events,
)
from jobs.yaml_file import read_yaml
from schemas.errors import LongtakeError
from schemas.job import JobSpec, read_job, read_limits

app = typer.Typer(
    name="longtake",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelName = Annotated[
    str,
    typer.Option(
        help="`nano`, a checkpoint folder, or a hub id such as Qwen/Qwen3-VL-8B-Instruct."
    ),
]
Fps = Annotated[float | None, typer.Option(help="Frames per second to look at.")]
MaxTokens = Annotated[
    str | None, typer.Option(help="Do not start a job that reads more tokens, for example 2m.")
]
MaxHours = Annotated[
    float | None, typer.Option(help="Do not start a job that reads more hours of video.")
]
Context = Annotated[str | None, typer.Option(help="Longest context, for example 256k.")]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Use the workers of this Dask scheduler."),
]


def _say_version(wanted: bool) -> None:
    if wanted:
        print_line(f"longtake {longtake_version()}")
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
    videos: Annotated[list[str], typer.Argument(help="Files, folders, patterns, URLs or lists.")],
    output: Annotated[str, typer.Option(help="Folder for the Parquet.")] = "out/find",
    model: ModelName = "nano",
    fps: Fps = None,
    context: Context = None,
    max_tokens: MaxTokens = None,
    max_hours: MaxHours = None,
    scheduler: Scheduler = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Find when something is visible, in one or many videos.

    Example: longtake find "a red circle" lectures/*.mp4 --output out/red
    """
    query = {"id": query_id(text), "find": text}
    job = _short_job(videos, model, fps, context, {"queries": [query], "output": output})
    job = _limited(job, max_tokens, max_hours)
    summary = _do(_on_cluster(job, scheduler, insecure))
    _print_events(output, EventFilter(query=query["id"]), as_json)
    _finish(summary, job)


@app.command()
def run(
    job_file: Annotated[str, typer.Argument(metavar="JOB.yaml", help="The job file.")],
    max_tokens: MaxTokens = None,
    max_hours: MaxHours = None,
    scheduler: Scheduler = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Do a job, or what is left of it.

    The same command again finishes what is missing and repeats nothing that is done.
    """
    job = _limited(load_job(job_file), max_tokens, max_hours)
    job = _on_cluster(job, scheduler, insecure)
    summary = _do(job)
    if as_json:
        print_line(json.dumps(_summary_facts(summary, job)))
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
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Read short clips first, to tell the time it takes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show frames, tokens, memory and time a job needs."""
    if (job_file is None) == (not video):
        raise typer.BadParameter("give either a JOB.yaml or --video FILE.")
    if job_file is not None:
        job = load_job(job_file)
    else:
        extra = {"queries": [{"id": "plan", "find": "anything"}]}
        job = _short_job(video or [], model, fps, context, extra)
    planned = plan_job(job, calibrated=calibrate)
    if as_json:
        for facts in planned.videos:
            print_line(json.dumps(facts))
    elif planned.videos:
        out().print(plans_table(planned.videos))
        out().print(plan_total(planned.videos, planned.estimate), soft_wrap=True)
    for problem in planned.problems:
        err().print(escape(problem.message), soft_wrap=True)
    if planned.problems:
        raise typer.Exit(max(problem.exit_code for problem in planned.problems))


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


for verb in (
    needle,
    cli_output.status,
    cli_output.verify,
    cli_output.gc,
    cli_output.cancel,
    worker,
):
    app.command()(verb)


@app.command()
def retry(
    folder: Annotated[str, typer.Argument(metavar="OUT", help="Output folder of a job.")],
    failed: Annotated[bool, typer.Option("--failed", help="Ask what failed again.")] = False,
    missing: Annotated[bool, typer.Option("--missing", help="Ask what has no answer.")] = False,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Only answers with this reason, status, query or video: reason=…"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask questions of an output again, as its job.json says.

    Example: longtake retry out/lectures --failed --where reason=worker_died
    """
    if missing == (failed or bool(where)):
        raise typer.BadParameter("give --missing, or --failed, or --where, or the last two.")
    choose = is_open if missing else Again(failed, read_where(where or []))
    made = read_provenance(open_output(folder).store)
    job = job_of(made).model_copy(update={"output": folder})
    summary = _do(job, Path(made.folder), choose)
    if as_json:
        print_line(json.dumps(_summary_facts(summary, job)))
    _finish(summary, job)


@app.command()
def doctor(model: ModelName = "nano", as_json: Json = False) -> None:
    """Show what is installed and what would run where."""
    facts = doctor_room.examine(model)
    if as_json:
        print_line(json.dumps(facts))
        return
    for name, value in facts.items():
        print_line(f"{name:<10} {_flat(value)}")


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
    return read_job(read_yaml(path, "job"), where=path)


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


def _limited(job: JobSpec, max_tokens: str | None, max_hours: float | None) -> JobSpec:
    """The job with the limits of the command line, which come before its own."""
    given = {"max_tokens": max_tokens, "max_hours": max_hours}
    said = {name: value for name, value in given.items() if value is not None}
    limits = read_limits({**job.limits.model_dump(), **said}, where="command line")
    return job.model_copy(update={"limits": limits})


def _on_cluster(job: JobSpec, scheduler: str | None, insecure: bool) -> JobSpec:
    """What the command line says of the cluster comes before what the job file says."""
    said: dict[str, Any] = {}
    if scheduler is not None:
        said |= {"scheduler": scheduler, "executor": "dask"}
    if insecure:
        said["insecure"] = True
    return job.model_copy(update={"cluster": job.cluster.model_copy(update=said)})


def _print_events(folder: str, chosen: EventFilter, as_json: bool) -> None:
    found = select_events(open_output(folder), chosen)
    if as_json:
        for line in json_lines(found):
            print_line(line)
    elif found.is_empty():
        err().print("No events.")
    else:
        out().print(events_table(found))


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
    console = err()
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
        say(f"longtake: {error.message}")
        sys.exit(error.exit_code)


def _do(job: JobSpec, base: Path | None = None, choose: Choose = is_open) -> BatchSummary:
    """Run a job; an interrupt leaves what is committed and says how to go on."""
    me = threading.get_ident()
    try:
        return run_job(
            job,
            err(),
            base=base,
            choose=choose,
            # A real signal: it also wakes a wait.
            on_cancel=lambda: signal.pthread_kill(me, signal.SIGINT),
        )
    except KeyboardInterrupt:
        err().print("Interrupted; what was done is kept. Run the same command again to go on.")
        raise typer.Exit(130) from None


if __name__ == "__main__":
    main()
