"""`longtake needle`: a needle-in-a-haystack evaluation. Part of the command line."""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from jobs.cli_worker import Insecure
from jobs.console import Json, err, out, print_line, say
from jobs.needle.evaluate import Evaluation, run_needle
from jobs.needle.rates import control_sentences, summarise, summary_table
from jobs.needle.write import needle_rows, write_report
from jobs.yaml_file import read_yaml
from schemas.errors import ConfigError
from schemas.needle import NeedleSpec, read_needle

PRESETS = ("smoke", "standard", "long", "million")
HAYSTACKS = "~/.cache/longtake/haystacks"


@dataclass(frozen=True, slots=True)
class _Said:
    """What the command line changes."""

    model: str | None
    output: str | None
    videos: list[str] | None
    scheduler: str | None
    insecure: bool


def needle(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG.yaml]", help="The evaluation's file.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="smoke (seconds), standard (to 32K tokens), long (256K) or million."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="`nano`, a checkpoint folder, or a hub id such as Qwen/Qwen3-VL-8B-Instruct."
        ),
    ] = None,
    output: Annotated[str | None, typer.Option(help="Folder for table and report.")] = None,
    haystack: Annotated[
        list[str] | None,
        typer.Option(help="Your own videos (file, folder, pattern) instead of drawn ones."),
    ] = None,
    cache: Annotated[str, typer.Option(help="Folder that keeps encoded haystacks.")] = HAYSTACKS,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Use the workers of this Dask scheduler."),
    ] = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Hide needles in long videos and see whether a model finds them, and when.

    Example: longtake needle --preset standard --output out/needle
    """
    if (config is None) == (preset is None):
        raise typer.BadParameter(f"give a CONFIG.yaml, or --preset {', '.join(PRESETS)}.")
    spec = _spec(config, preset, _Said(model, output, haystack, scheduler, insecure))
    folder = Path(cache).expanduser().absolute()
    done = _do(spec, folder)
    rows = needle_rows(done.log, [work.key for work in done.ready.works])
    paths = write_report(done, rows)
    if as_json:
        for row in rows.iter_rows(named=True):
            print_line(json.dumps(row, default=str))
    elif not rows.is_empty():
        summary = summarise(rows)
        out().print(summary_table(summary))
        for sentence in control_sentences(summary):
            out().print(sentence, soft_wrap=True)
    _finish(done, paths)


def _spec(config: str | None, preset: str | None, said: _Said) -> NeedleSpec:
    if config is not None:
        data, where = read_yaml(config, "evaluation"), config
    else:
        data, where = _preset(str(preset)), f"preset {preset}"
    if not isinstance(data, dict):
        raise ConfigError(f"{where} holds no evaluation; it is a mapping, see docs/needle.md.")
    # A preset's output is named by it, so that two of them do not meet in one folder.
    first = {} if preset is None else {"output": f"out/needle-{preset}"}
    return read_needle(_with(first | data, said), where=where)


def _preset(name: str) -> Any:
    if name not in PRESETS:
        raise typer.BadParameter(f"there is no preset {name!r}; choose {', '.join(PRESETS)}.")
    text = resources.files("jobs.needle").joinpath(f"presets/{name}.yaml").read_text()
    return yaml.safe_load(text)


def _with(data: dict[str, Any], said: _Said) -> dict[str, Any]:
    """What the command line says comes before what the file says."""
    merged = dict(data)
    if said.output is not None:
        merged["output"] = said.output
    if said.model is not None:
        merged["model"] = {**_section(merged, "model"), "name": said.model}
    if said.videos:
        merged["haystack"] = {**_section(merged, "haystack"), "videos": said.videos}
    cluster = dict(_section(merged, "cluster"))
    if said.scheduler is not None:
        cluster |= {"scheduler": said.scheduler, "executor": "dask"}
    if said.insecure:
        cluster["insecure"] = True
    return {**merged, "cluster": cluster} if cluster else merged


def _section(data: dict[str, Any], name: str) -> dict[str, Any]:
    value = data.get(name)
    return value if isinstance(value, dict) else {}


def _do(spec: NeedleSpec, folder: Path) -> Evaluation:
    me = threading.get_ident()
    try:
        return run_needle(
            spec,
            err(),
            folder,
            on_cancel=lambda: signal.pthread_kill(me, signal.SIGINT),
        )
    except KeyboardInterrupt:
        err().print("Interrupted; what was done is kept. Run the same command again to go on.")
        raise typer.Exit(130) from None


def _finish(done: Evaluation, paths: list[str]) -> None:
    for message in dict.fromkeys(row.message for row in done.failures):
        say(f"failed: {message}")
    kept = f", {done.num_kept} done before" if done.num_kept else ""
    naive = done.ready.naive_tokens
    say(
        f"{done.num_done} passes{kept}; {done.prefilled_tokens:,} tokens prefilled, reading each "
        f"length of each pass from its beginning would be up to {naive:,}. "
        f"Report: {paths[0]}"
    )
    if done.failures:
        raise typer.Exit(3)
