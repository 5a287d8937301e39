"""Whatever a call does to its process, its caller goes on and knows what happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks._poison import hold_interpreter, take_memory
from jobs.children import CallLost, Child, Limits, Unwanted, one_child
from schemas.errors import InputError
from tests.crash.stage import until

QUICK = Limits(wall_s=20, memory_bytes=512 * 1024**2)


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    with one_child() as made:
        yield made


def own_pid(_: None) -> int:
    return os.getpid()


def fail_well(word: str) -> None:
    raise InputError(f"{word} is bad.", reason=word)


def fail_badly(_: None) -> None:
    raise ValueError("object at 0xdeadbeef")


def abort(_: None) -> None:
    os.abort()


def leave(_: None) -> None:
    os._exit(0)


def kill_self(_: None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(_: None) -> None:
    hold_interpreter()


def swell(_: None) -> None:
    take_memory()


def grab(_: None) -> int:
    return len(bytearray(2**45))


def die_once(mark: str) -> str:
    if not Path(mark).exists():
        Path(mark).touch()
        os.abort()
    return "done"


def fork_and_hang(note: str) -> None:
    if (pid := os.fork()) == 0:
        hold_interpreter()
    Path(note).write_text(str(pid))
    hold_interpreter()


def test_one_process_answers_many_calls(child: Child) -> None:
    pids = {child.call(own_pid, None, QUICK) for _ in range(3)}
    assert len(pids) == 1
    assert os.getpid() not in pids


def test_our_errors_come_through_and_others_lose_their_text(child: Child) -> None:
    with pytest.raises(InputError, match="it is bad") as caught:
        child.call(fail_well, "it", QUICK)
    assert caught.value.reason == "it"
    with pytest.raises(RuntimeError, match=r"^ValueError in ") as other:
        child.call(fail_badly, None, QUICK)
    assert "0xdeadbeef" not in str(other.value)


@pytest.mark.parametrize(
    ("function", "cause", "limits"),
    [
        (abort, "crashed", QUICK),
        (leave, "crashed", QUICK),
        (kill_self, "killed", QUICK),
        (hang, "time_limit", Limits(0.3)),
        (swell, "memory", QUICK),
        (grab, "memory", QUICK),
    ],
)
def test_a_lost_call_says_why_and_the_next_one_is_served(
    child: Child, function: object, cause: str, limits: Limits
) -> None:
    with pytest.raises(CallLost) as caught:
        child.call(function, None, limits)  # type: ignore[arg-type]
    assert (caught.value.cause, caught.value.attempts) == (cause, 2)
    assert child.call(own_pid, None, QUICK) > 0


def test_a_call_that_fails_once_is_tried_again(child: Child, tmp_path: Path) -> None:
    assert child.call(die_once, str(tmp_path / "mark"), QUICK) == "done"


def test_a_child_that_was_killed_between_two_calls_is_replaced(child: Child) -> None:
    pid = child.call(own_pid, None, QUICK)
    os.kill(pid, signal.SIGKILL)
    assert child.call(own_pid, None, QUICK) != pid


def test_a_lost_child_is_replaced_ahead_of_the_next_call() -> None:
    with one_child() as made:
        with pytest.raises(CallLost):
            made.call(abort, None, Limits(attempts=1))
        made.warm(abort.__module__)
        first = made.call(own_pid, None, QUICK)
        made.warm(abort.__module__)
        assert made.call(own_pid, None, QUICK) == first


def test_an_unwanted_call_is_ended_with_all_it_started(child: Child, tmp_path: Path) -> None:
    note = tmp_path / "note"
    with pytest.raises(Unwanted):
        child.call(fork_and_hang, str(note), QUICK, lambda: not note.exists())
    until(lambda: not note.read_text() or not is_running(int(note.read_text())))


def test_a_child_dies_with_its_parent() -> None:
    code = (
        "from jobs.children import Child, Limits\n"
        "from tests.jobs.test_children import hang, own_pid\n"
        "child = Child()\n"
        "print(child.call(own_pid, None, Limits()), flush=True)\n"
        "child.call(hang, None, Limits())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.2)  # Into the call that never lets go of the interpreter.
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not is_running(pid))


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
