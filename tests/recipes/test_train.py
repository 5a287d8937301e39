"""The whole training as one command: its steps follow from each other."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from recipes.nano import export, train
from recipes.nano.export import DECODERS, READERS
from recipes.nano.retrieving import links
from recipes.nano.shape import CHECKPOINT
from recipes.nano.train import READING, RETRIEVING, Step, run_chain


def names_of(step: Step) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--begin", default="")
    return parser.parse_known_args(step.arguments.split())[0]


def test_every_step_begins_with_what_an_earlier_one_made() -> None:
    made: list[str] = []
    for chain in (READING, RETRIEVING):
        for number, step in enumerate(chain):
            own = names_of(step)
            assert own.begin == (made[-1] if number else "")
            made.append(own.name)
    assert len(set(made)) == len(made)
    assert {*READERS, *DECODERS} <= {*made}


def test_a_chain_is_taken_up_behind_what_is_done_and_ends_where_a_step_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "RUNS", tmp_path)
    (tmp_path / "old.done").touch()
    chain = (Step("old", "missing", ""), Step("new", "shape", ""), Step("last", "missing", ""))
    assert run_chain(chain, 1) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.done", "old.done"]
    assert run_chain(chain[:2], 1) == 0
    assert "old:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], [(READING, 2), (RETRIEVING, 2), ("export", 2)]),
        (["--only", "reading"], [(READING, 4)]),
        (["--only", "retrieving", "--threads", "3"], [(RETRIEVING, 3)]),
    ],
)
def test_both_chains_share_the_cores_and_one_alone_is_not_exported(
    given: list[str],
    expected: list[tuple[object, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[tuple[object, int]] = []

    def note(chain: tuple[Step, ...], threads: int) -> int:
        ran.append((chain if len(chain) > 1 else chain[0].name, threads))
        return 0

    monkeypatch.setattr(train, "RUNS", tmp_path)
    monkeypatch.setattr(train, "run_chain", note)
    monkeypatch.setattr(train.signal, "signal", lambda *_: None)
    monkeypatch.setattr(train.os, "cpu_count", lambda: 4)
    monkeypatch.setattr("sys.argv", ["train", *given])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 0
    assert sorted(ran, key=str) == sorted(expected, key=str)


def test_what_a_run_handed_on_is_relinked_where_it_links(monkeypatch: pytest.MonkeyPatch) -> None:
    own = export.decoder_of("published")
    monkeypatch.setattr(export, "decoder_of", lambda _: own)
    made = export._decoder("run.pt")
    changed = {name for name in own if not made[name].equal(own[name])}
    heads = f"layers.{links.LAYER}.self_attn."
    assert changed == {f"{heads}{part}_{what}.weight" for part in "qk" for what in ("proj", "norm")}
    three = {name: weight for name, weight in own.items() if "layers.3." not in name}
    monkeypatch.setattr(export, "decoder_of", lambda _: three)
    assert export._decoder("run.pt") is three


def test_what_is_published_is_exported_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--readers", "published", "--decoders", "published", "--folder", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["export", *given])
    export.main()
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (CHECKPOINT / name).read_bytes(), name
