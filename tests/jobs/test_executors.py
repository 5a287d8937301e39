"""One suite, every executor: the same results, whoever runs them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dask.sizeof import sizeof
from distributed import Scheduler

from jobs.cluster import EmbeddedCluster
from jobs.dask_executor import DaskExecutor
from jobs.executor import Executor, SerialExecutor, WorkerLost
from schemas.errors import ConfigError
from tests.jobs import helpers


def embedded(
    make_tool: Callable[[], Any], *, model_workers: int = 1, decode_workers: int = 1, **more: Any
) -> DaskExecutor:
    cluster = EmbeddedCluster(model_workers=model_workers, decode_workers=decode_workers)
    return DaskExecutor(make_tool, cluster, **more)


@pytest.fixture(scope="module", params=["serial", "dask"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    made: Executor
    if request.param == "serial":
        made = SerialExecutor(helpers.Tool)
    else:
        made = embedded(helpers.Tool, decode_workers=2)
    yield made
    made.close()


def ignore(_: dict[str, Any]) -> None:
    """Reports are not looked at."""


def test_results_errors_and_reports(executor: Executor) -> None:
    items = [(1, 2, 3), (13,), (4,), ()]
    reports: list[dict[str, Any]] = []
    outcomes = {o.item: o for o in executor.run(helpers.sum_task, items, reports.append)}
    assert set(outcomes) == set(items)
    assert isinstance(outcomes[(13,)].error, ValueError)
    totals = {item: o.result["total"] for item, o in outcomes.items() if o.result is not None}
    assert totals == {(1, 2, 3): 12, (4,): 8, (): 0}
    deadline = time.monotonic() + 5
    while len(reports) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert {report["total"] for report in reports} == {2, 6, 12, 8}


def test_a_tool_is_built_once_for_many_items(executor: Executor) -> None:
    results = [o.result for o in executor.run(helpers.sum_task, [(1,), (2,), (3,)], ignore)]
    assert len({result["tool"] for result in results if result}) == 1


def test_little_is_made_before_it_is_read(executor: Executor, tmp_path: Path) -> None:
    (outcome,) = executor.run(helpers.ahead_task, [str(tmp_path / "marks")], ignore)
    assert outcome.result is not None
    # Two may wait, and a third may be finished and looking for a place.
    assert outcome.result <= 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskExecutor]:
    made = embedded(helpers.Tool)
    yield made
    made.close()


def test_helpers_run_on_decode_workers_only(cluster: DaskExecutor) -> None:
    (outcome,) = cluster.run(helpers.sum_task, [(1, 2, 3, 4)], ignore)
    assert outcome.result is not None
    assert outcome.result["own"] not in outcome.result["helpers"]
    assert os.getpid() not in {outcome.result["own"], *outcome.result["helpers"]}


def test_payloads_go_from_worker_to_worker(
    cluster: DaskExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    through_scheduler: list[int] = []
    gather = Scheduler.gather

    async def watched(self: Scheduler, *args: Any, **kwargs: Any) -> Any:
        data = await gather(self, *args, **kwargs)
        through_scheduler.append(sizeof(data))
        return data

    monkeypatch.setattr(Scheduler, "gather", watched)
    (outcome,) = cluster.run(helpers.payload_task, [8], ignore)
    assert outcome.result == sum(range(8))
    assert sum(through_scheduler) < helpers.PAYLOAD_BYTES / 10


def test_helper_calls_run_in_their_order(cluster: DaskExecutor, tmp_path: Path) -> None:
    (outcome,) = cluster.run(helpers.order_task, [str(tmp_path / "marks")], ignore)
    assert outcome.result == list(range(24))


def test_everything_listens_on_loopback_only(cluster: DaskExecutor) -> None:
    info = cluster.client.scheduler_info(n_workers=-1)
    addresses = [info["address"], *info["workers"]]
    assert len(addresses) == 3
    assert all(address.startswith("tcp://127.0.0.1:") for address in addresses)
    assert "http://127.0.0.1:" in cluster.describe()


def test_a_task_that_kills_its_worker_is_tried_twice_and_costs_no_neighbour(
    tmp_path: Path,
) -> None:
    marks = tmp_path / "marks"
    made = embedded(helpers.Tool)
    try:
        items = [(number, str(marks)) for number in range(4)]
        outcomes = {o.item[0]: o for o in made.run(helpers.exit_task, items, ignore)}
    finally:
        made.close()
    assert isinstance(outcomes[1].error, WorkerLost)
    assert marks.stat().st_size == outcomes[1].error.attempts == 2
    assert [outcomes[number].result for number in (0, 2, 3)] == [0, 2, 3]


def test_a_tool_that_cannot_be_built_is_our_error() -> None:
    with pytest.raises(ConfigError, match="the model is missing; name another"):
        embedded(helpers.broken_tool)
