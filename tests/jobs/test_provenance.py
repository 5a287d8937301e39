"""What a job says of its model: the same to the client, to the worker and in job.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from jobs.provenance import gather_provenance, write_provenance
from jobs.tools import load_facts, make_model
from pipeline.store import FolderStore
from schemas.job import ModelSpec, read_job
from tests.jobs.fakes import FACTS


def test_job_json_says_whether_yarn_was_on(tmp_path: Path) -> None:
    job = read_job({"videos": ["a.mp4"], "queries": [{"id": "a", "find": "x"}]}, where="t")
    facts = replace(FACTS, yarn_factor=2.0)
    write_provenance(FolderStore(tmp_path), gather_provenance(job, facts, tmp_path, ()))
    assert json.loads((tmp_path / "job.json").read_text())["yarn_factor"] == 2.0


def test_client_and_worker_mean_the_same_model() -> None:
    spec = ModelSpec(context=10_000, yarn=2.5)
    facts, _ = load_facts(spec)
    assert (facts.context_tokens, facts.yarn_factor) == (10_000, 2.5)
    assert make_model(spec, facts.digest).facts == facts
