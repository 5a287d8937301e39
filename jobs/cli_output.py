"""The verbs around an output folder: verify, gc, status, cancel. Part of the command line."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from typing import Annotated

import typer

from jobs.clients import ask_to_stop
from jobs.console import Json, print_line, say
from jobs.show import open_output
from jobs.status import Status, read_status
from pipeline.audit import SAFETY_AGE_S, Finding, audit, collect, rows_sha256
from pipeline.commit_log import CommitLog
from schemas.errors import ConfigError
from schemas.events import TABLES

Out = Annotated[str, typer.Argument(metavar="OUT", help="Output folder of a job.")]
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_WORDS = {
    "lost_entry": "log entry",
    "damaged_part": "part",
    "damaged_job": "job file",
    "orphan": "leftover",
}


def verify(folder: Out, as_json: Json = False) -> None:
    """Check every byte of an output against its commit log.

    Exit code 4 where something is damaged; leftovers of killed runs are no damage.
    """
    log = open_output(folder)
    findings = audit(log)
    damage = [finding for finding in findings if finding.is_damage]
    counts = {} if damage else {name: log.read(name).num_rows for name in TABLES}
    advice = _advice(folder, findings)
    if as_json:
        facts = {
            "output": folder,
            "whole": not damage,
            "entries": len(log.state().entries),
            "rows": counts,
            "rows_sha256": None if damage else rows_sha256(log),
            "findings": [asdict(finding) for finding in findings],
            "next": advice,
        }
        print_line(json.dumps(facts))
    else:
        _print_findings(findings)
        _print_verdict(log, counts)
        for line in advice:
            say(line)
    if damage:
        raise typer.Exit(4)


def _print_findings(findings: list[Finding]) -> None:
    for finding in findings:
        whose = f" (rows of {finding.place})" if finding.place else ""
        print_line(f"{_WORDS[finding.kind]} {finding.path} {finding.what}{whose}")


def _print_verdict(log: CommitLog, counts: dict[str, int]) -> None:
    if counts:
        # Only evaluations have rows of needles.
        shown = {name: count for name, count in counts.items() if count or name != "needles"}
        rows = ", ".join(f"{count} {name}" for name, count in shown.items())
        print_line(f"whole: {len(log.state().entries)} log entries, rows: {rows}")
        print_line(f"rows sha256 {rows_sha256(log)}")


def _advice(folder: str, findings: list[Finding]) -> list[str]:
    lines = []
    if any(finding.is_damage for finding in findings):
        lines.append(
            f"Run the job's own command again (or `longtake retry {folder} --missing`): it reads "
            "again what is damaged and nothing else."
        )
    if any(not finding.is_damage for finding in findings):
        lines.append(f"`longtake gc {folder}` removes leftovers.")
    return lines


def gc(
    folder: Out,
    older_than: Annotated[
        str, typer.Option(help="Least age of what is removed: 90s, 30m, 2h or 1d.")
    ] = f"{SAFETY_AGE_S / 3600:g}h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Remove files that no log entry names: what killed runs left.

    Younger files stay: a run may be about to commit them.
    """
    log = open_output(folder)
    gone = collect(log, _seconds(older_than), time.time(), dry_run=dry_run)
    size = sum(file.size for file in gone)
    if as_json:
        facts = {"dry_run": dry_run, "bytes": size, "files": [file.path for file in gone]}
        print_line(json.dumps(facts))
        return
    for file in gone:
        print_line(file.path)
    say(f"{'Would remove' if dry_run else 'Removed'} {len(gone)} files, {size} bytes.")


def _seconds(text: str) -> float:
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"--older-than {text!r} is no age; write 90s, 30m, 2h or 1d.")
    return float(match[1]) * _SECONDS[match[2]]


def status(folder: Out, as_json: Json = False) -> None:
    """Show how far a job is: done, failed by reason, pending, rate and time left.

    Reads the output only, so it works while the job runs, from anywhere.
    """
    found = read_status(open_output(folder))
    if as_json:
        print_line(json.dumps({"output": folder, **asdict(found)}))
    else:
        for line in _status_lines(found):
            print_line(line)
    if found.lost_entries:
        say(f"{found.lost_entries} log entries are damaged; see `longtake verify {folder}`.")


def _status_lines(found: Status) -> list[str]:
    requests = ", ".join(f"{count} {name}" for name, count in found.requests.items()) or "none"
    lines = [
        f"job       {found.job_id}, model {found.model_id}",
        f"videos    {found.num_videos}: {found.num_done} done, {found.num_failed} failed, "
        f"{found.num_pending} pending",
        f"requests  {requests}",
    ]
    if found.failed:
        reasons = ", ".join(f"{count} {reason}" for reason, count in found.failed.items())
        lines.append(f"failed    {reasons}")
    if found.rate is not None:
        lines.append(f"rate      {found.rate:.1f}x real time since {found.started_at[:19]} UTC")
    if found.num_pending:
        left = "nobody works on it" if found.eta_s is None else f"about {_clock(found.eta_s)} left"
        left = "no rate yet" if found.clients and found.eta_s is None else left
        lines.append(f"pending   {_clock(found.pending_s)} of video, {left}")
    return lines + [f"running   {client}" for client in found.clients]


def _clock(seconds: float) -> str:
    minutes = int(seconds) // 60
    return f"{minutes // 60}:{minutes % 60:02d}:{int(seconds) % 60:02d}"


def cancel(folder: Out, as_json: Json = False) -> None:
    """Ask the runs that work on an output to stop. What is finished is committed and kept."""
    asked = ask_to_stop(open_output(folder).store)
    if as_json:
        print_line(json.dumps({"asked": [lease.title for lease in asked]}))
    elif not asked:
        say(f"Nobody works on {folder}.")
    for lease in [] if as_json else asked:
        say(f"Asked {lease.title} to stop; the same command goes on later.")
