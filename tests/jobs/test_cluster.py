"""Clusters that are missing, unsafe, unlike or stuck: one sentence, never a silent wait."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from distributed import Client, SpecCluster

from jobs import dask_executor
from jobs.cluster import EmbeddedCluster, _scheduler_spec, checked_address
from jobs.crew import Crew
from jobs.dask_executor import DaskExecutor, Patience
from jobs.executor import TaskOverdue, WorkerLost
from jobs.likeness import differences, installation
from jobs.worker import WorkerSettings, resources_of, serve
from schemas.errors import ConfigError, ResourceError
from tests.jobs import helpers


class Bare:
    """A scheduler without workers."""

    can_return = False

    def __init__(self) -> None:
        self._cluster = SpecCluster(scheduler=_scheduler_spec(), silence_logs=logging.CRITICAL)

    def connect(self, within_s: float) -> Any:
        return Client(self._cluster, set_as_default=False, timeout=within_s)

    def describe(self, client: Any) -> str:
        return "bare"

    def close(self) -> None:
        self._cluster.close()


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("127.0.0.1:8786", "tcp://127.0.0.1:8786"),
        ("localhost:1", "tcp://localhost:1"),
        ("tcp://[::1]:8786", "tcp://[::1]:8786"),
    ],
)
def test_addresses_of_this_machine_need_nothing(given: str, address: str) -> None:
    assert checked_address(given, insecure=False) == address


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.5:8786", "cluster.example.org:8786", "0.0.0.0:1"]
)
def test_other_machines_need_encryption_or_consent(address: str) -> None:
    with pytest.raises(ConfigError, match=r"not encrypted.*tls://.*--insecure"):
        checked_address(address, insecure=False)
    assert checked_address(address, insecure=True).startswith("tcp://")


@pytest.mark.parametrize("address", ["8786", "host", "host:", ":8786", "http://host:1", "a:b"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a scheduler"):
        checked_address(address, insecure=True)


def test_encryption_needs_certificates() -> None:
    with pytest.raises(ConfigError, match="needs certificates"):
        checked_address("tls://10.0.0.5:8786", insecure=False)


def test_a_worker_listens_where_it_is_safe() -> None:
    settings = WorkerSettings("127.0.0.1:1", host="0.0.0.0")
    with pytest.raises(ConfigError, match=r"--host 0.0.0.0 can be reached from other machines"):
        serve(settings, lambda _line: None)


def test_a_worker_gives_up_a_scheduler_that_never_comes() -> None:
    with pytest.raises(ResourceError, match=r"no scheduler answers at tcp://127.0.0.1:1"):
        serve(WorkerSettings("127.0.0.1:1", wait_s=0), lambda _line: None)


def test_roles_are_resources() -> None:
    assert resources_of(WorkerSettings("a:1", "decode", 4)) == {"longtake-decode": 4}
    assert resources_of(WorkerSettings("a:1", "model", 4)) == {"longtake-model": 1}
    assert resources_of(WorkerSettings("a:1", "both", 2)) == {
        "longtake-model": 1,
        "longtake-decode": 2,
    }


def test_a_cluster_without_workers_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dask_executor.PREFLIGHT_S <= 30
    monkeypatch.setattr(dask_executor, "PREFLIGHT_S", 0.3)
    with pytest.raises(ResourceError, match=r"no model and no decode worker.*--role both"):
        DaskExecutor(helpers.Tool, Bare())


def test_a_worker_that_falls_while_it_loads_is_waited_for_anew() -> None:
    crew = Crew(asked={"a"}, whole_s=time.monotonic() - 100)
    crew.check(within_s=30)
    crew.keep(present=set())
    crew.check(within_s=30)
    crew.whole_s -= 31
    with pytest.raises(ResourceError, match=r"no model and no decode worker left: once one ended"):
        crew.check(within_s=30)


def test_falls_are_forgotten_when_every_role_has_a_worker() -> None:
    crew = Crew(asked={"a"}, falls=2)
    crew.keep(present=set())
    assert crew.falls == 3
    crew.ready["b"] = frozenset({"longtake-model", "longtake-decode"})
    crew.check(within_s=30)
    assert crew.falls == 0


def test_workers_that_fall_again_and_again_are_given_up(tmp_path: Path) -> None:
    maker = partial(helpers.falling_tool, str(tmp_path / "marks"))
    with pytest.raises(ResourceError, match=r"no model worker left: 3 times one ended .* doctor"):
        DaskExecutor(maker, EmbeddedCluster(model_workers=1, decode_workers=1))
    assert (tmp_path / "marks").stat().st_size == 3


def test_a_worker_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "PREFLIGHT_S", 1.0)
    monkeypatch.setattr(Client, "run", Mock(side_effect=OSError("no route")))
    with pytest.raises(ResourceError, match=r"knows the worker tcp://127.* cannot reach it"):
        DaskExecutor(helpers.Tool, EmbeddedCluster(model_workers=1, decode_workers=1))


def test_a_model_is_loaded_where_heartbeats_go_on() -> None:
    DaskExecutor(helpers.OffTheLoop(), EmbeddedCluster(model_workers=1, decode_workers=1)).close()


def test_differences_are_named() -> None:
    ours = {"torch": "2.13", "av": "18"}
    assert differences(ours, dict(ours)) == ""
    assert (
        differences(ours, {"torch": "2.12"})
        == "av missing instead of 18, torch 2.12 instead of 2.13"
    )
    assert {"python", "longtake", "torch", "av"} <= set(installation())


def test_a_worker_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {**installation(), "av": "1.0"}
    monkeypatch.setattr(dask_executor, "installation", lambda: other)
    with pytest.raises(ResourceError, match=r"the worker tcp://127.*has av \d+.* instead of 1\.0"):
        DaskExecutor(helpers.Tool, EmbeddedCluster(model_workers=1, decode_workers=1))


def test_a_task_that_takes_too_much_memory_is_killed_and_stops_no_neighbour(tmp_path: Path) -> None:
    cluster = EmbeddedCluster(model_workers=1, decode_workers=1, memory_limit="400MiB")
    made = DaskExecutor(helpers.Tool, cluster)
    try:
        items = [(number, str(tmp_path / "marks")) for number in range(3)]
        outcomes = {o.item[0]: o for o in made.run(helpers.swelling_task, items, lambda _r: None)}
    finally:
        made.close()
    assert isinstance(outcomes[1].error, WorkerLost)
    assert (outcomes[0].result, outcomes[2].result) == (0, 2)
    assert (tmp_path / "marks").stat().st_size == 2


@pytest.fixture
def impatient() -> Iterator[DaskExecutor]:
    cluster = EmbeddedCluster(model_workers=1, decode_workers=1)
    made = DaskExecutor(helpers.Tool, cluster, patience=Patience(back_s=60, task_s=1.5))
    yield made
    made.close()


def test_a_task_that_never_ends_is_ended_and_stops_no_neighbour(
    impatient: DaskExecutor, tmp_path: Path
) -> None:
    items = [(number, str(tmp_path / "marks")) for number in range(3)]
    outcomes = {o.item[0]: o for o in impatient.run(helpers.stuck_task, items, lambda _r: None)}
    assert isinstance(outcomes[1].error, TaskOverdue)
    assert (outcomes[0].result, outcomes[2].result) == (0, 2)
    assert (tmp_path / "marks").stat().st_size == 1
