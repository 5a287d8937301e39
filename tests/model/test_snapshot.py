"""Sessions on disk: taken up where they stopped, refused where they do not belong, whole or not
at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from model import snapshot
from model.engine import LoadedModel, load_model
from schemas.errors import ConfigError
from schemas.plan import VideoPlan
from tests.model.test_engine import QUESTIONS
from tests.model.test_session import CHUNKS, batches, filled_until, furthest, wide_plan
from tests.model.tiny import make_tiny

FORMS = [
    ("float32", "auto"),
    ("float32", "bfloat16"),
    ("float32", "int8"),
    ("bfloat16", "auto"),
    ("bfloat16", "int8"),
]
VIDEO = "a1b2"


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(str(make_tiny().folder), prefill_chunk=31)


@dataclass(frozen=True)
class Saved:
    """Two chunks of four in a file."""

    path: Path
    content: bytes

    def refuses(self, model: LoadedModel, plan: VideoPlan, video_id: str, said: str) -> None:
        """One sentence that names the file, which stays as it is."""
        with pytest.raises(ConfigError, match=said) as caught:
            model.resume(plan, self.path, video_id)
        sentence = str(caught.value)
        assert sentence.startswith(str(self.path))
        assert sentence.endswith(".")
        assert "\n" not in sentence
        assert self.path.read_bytes() == self.content
        assert list(self.path.parent.iterdir()) == [self.path]


@pytest.fixture(scope="module")
def content(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "session"
    filled_until(model, wide_plan(model), 2).save(path, VIDEO)
    return path.read_bytes()


@pytest.fixture
def saved(content: bytes, tmp_path: Path) -> Saved:
    path = tmp_path / "session"
    path.write_bytes(content)
    return Saved(path, content)


@pytest.mark.parametrize(("dtype", "kv_dtype"), FORMS)
@pytest.mark.parametrize("num_chunks", range(CHUNKS + 1))
def test_a_resumed_session_equals_one_that_never_stopped(
    tmp_path: Path, dtype: str, kv_dtype: str, num_chunks: int
) -> None:
    model = load_model(str(make_tiny().folder), dtype=dtype, kv_dtype=kv_dtype, prefill_chunk=31)
    plan, path = wide_plan(model), tmp_path / "new" / "session"
    whole = filled_until(model, plan, num_chunks)
    whole.save(path, VIDEO)
    ours = model.resume(plan, path, VIDEO)
    assert ours.num_chunks == num_chunks
    assert furthest(ours, whole) == 0.0
    for session in (ours, whole):
        for batch in batches(plan)[num_chunks:]:
            session.feed(batch)
    assert furthest(ours, whole) == 0.0
    assert ours.finish().ask(QUESTIONS) == whole.finish().ask(QUESTIONS)


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
def test_a_rewound_session_is_saved_as_far_as_it_goes(tmp_path: Path, kv_dtype: str) -> None:
    model = load_model(str(make_tiny().folder), dtype="bfloat16", kv_dtype=kv_dtype)
    plan, path = wide_plan(model), tmp_path / "session"
    session = filled_until(model, plan, 3)
    session.rewind(1)
    session.save(path, VIDEO)
    assert furthest(model.resume(plan, path, VIDEO), session) == 0.0


def other_ending(plan: VideoPlan) -> VideoPlan:
    """The last chunk left out."""
    kept = plan.chunks[:-1]
    pts = tuple(pts for chunk in kept for pts in chunk.frame_pts)
    return replace(plan, chunks=kept, sampling=replace(plan.sampling, frame_pts=pts))


def test_a_plan_may_end_otherwise(model: LoadedModel, saved: Saved) -> None:
    """What is in the file is the same in both."""
    plan = other_ending(wide_plan(model))
    ours = model.resume(plan, saved.path, VIDEO)
    expected = filled_until(model, plan, 3)
    ours.feed(batches(plan)[2])
    assert furthest(ours, expected) == 0.0
    assert ours.finish().ask(QUESTIONS) == expected.finish().ask(QUESTIONS)


def test_more_than_the_plan_has_is_refused(
    model: LoadedModel, saved: Saved, tmp_path: Path
) -> None:
    shorter = other_ending(other_ending(other_ending(wide_plan(model))))
    saved.refuses(model, shorter, VIDEO, "another sampling")


def with_pairs(plan: VideoPlan, **changes: Any) -> VideoPlan:
    """Every pair changed; frames go with their pairs."""
    chunks = tuple(
        replace(
            c, pairs=tuple(replace(p, **{k: f(p) for k, f in changes.items()}) for p in c.pairs)
        )
        for c in plan.chunks
    )
    pts = tuple(pts for chunk in chunks for pts in chunk.frame_pts)
    return replace(plan, chunks=chunks, sampling=replace(plan.sampling, frame_pts=pts))


OTHER_PLANS: dict[str, Callable[[VideoPlan], VideoPlan]] = {
    "pts": lambda plan: with_pairs(plan, last_pts=lambda pair: pair.last_pts + 1),
    "timestamps": lambda plan: with_pairs(plan, text=lambda pair: pair.text.replace(".5", ".6")),
    "grid": lambda plan: replace(
        plan, sampling=replace(plan.sampling, grid=replace(plan.sampling.grid, rows=3, cols=2))
    ),
}


@pytest.mark.parametrize("name", OTHER_PLANS)
def test_another_plan_is_refused(model: LoadedModel, saved: Saved, name: str) -> None:
    """Even where it counts the same tokens."""
    plan = OTHER_PLANS[name](wide_plan(model))
    assert plan.video_tokens == wide_plan(model).video_tokens
    saved.refuses(model, plan, VIDEO, "another sampling")


def test_another_prompt_is_refused(saved: Saved) -> None:
    other = load_model(str(make_tiny().folder), outer_wrapper=True)
    saved.refuses(other, wide_plan(other), VIDEO, "another prompt")


def test_another_video_is_refused(model: LoadedModel, saved: Saved) -> None:
    saved.refuses(model, wide_plan(model), "a1b3", "another video .'a1b2' where 'a1b3'")


def test_other_weights_are_refused(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One number in one tensor is another."""
    folder = tmp_path_factory.mktemp("other") / "tiny"
    shutil.copytree(make_tiny().folder, folder)
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    tensors["model.language_model.norm.weight"][0] += 1
    save_file(tensors, path, {"format": "pt"})
    other = load_model(str(folder))
    saved.refuses(other, wide_plan(other), VIDEO, "another model")


@pytest.mark.parametrize(("dtype", "kv_dtype"), FORMS[1:])
def test_another_form_of_the_cache_is_refused(saved: Saved, dtype: str, kv_dtype: str) -> None:
    other = load_model(str(make_tiny().folder), dtype=dtype, kv_dtype=kv_dtype)
    saved.refuses(other, wide_plan(other), VIDEO, "another form of the KV cache")


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.7, 1.0])
def test_a_truncated_file_is_refused(model: LoadedModel, saved: Saved, part: float) -> None:
    cut = saved.content[: int(part * (len(saved.content) - 1))]
    saved.path.write_bytes(cut)
    Saved(saved.path, cut).refuses(model, wide_plan(model), VIDEO, "holds no session")


@pytest.mark.parametrize("kind", ["text", "weights", "huge"])
def test_a_file_that_is_no_session_is_refused(model: LoadedModel, saved: Saved, kind: str) -> None:
    (weights,) = make_tiny().folder.glob("*.safetensors")
    huge = json.dumps({"__metadata__": {"num_chunks": "9" * 5000}}).encode()
    content = {
        "text": b"no session\n" * 99,
        "weights": weights.read_bytes(),
        "huge": len(huge).to_bytes(8, "little") + huge,
    }[kind]
    saved.path.write_bytes(content)
    Saved(saved.path, content).refuses(model, wide_plan(model), VIDEO, "holds no session")


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_missing_file_is_refused(model: LoadedModel, tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path / "session"
    if is_folder:
        path.mkdir()
    with pytest.raises(ConfigError, match="holds no session") as caught:
        model.resume(wide_plan(model), path, VIDEO)
    assert str(caught.value).startswith(str(path))
    assert path.exists() == is_folder


DAMAGES: dict[str, tuple[str, Callable[[Tensor], Tensor] | None]] = {
    "gone": ("1.values", None),
    "short": ("1.keys", lambda keys: keys[:, :64]),
    "one for all": ("1.keys", lambda keys: keys[:, :1]),
    "a head": ("2.keys", lambda keys: keys[:1]),
    "other dtype": ("0.keys", lambda keys: keys.double()),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_tensors_that_do_not_fit_are_refused(model: LoadedModel, saved: Saved, name: str) -> None:
    """The file says that it is the session, and holds something else."""
    tensors = load_file(saved.path)
    key, change = DAMAGES[name]
    before = tensors.pop(key)
    if change:
        tensors[key] = change(before).clone()
    save_file(tensors, saved.path, snapshot.read_facts(saved.path))
    damaged = Saved(saved.path, saved.path.read_bytes())
    damaged.refuses(model, wide_plan(model), VIDEO, "is damaged")


class Spy:
    """A file that notes what is written and refuses from some write on."""

    def __init__(self, file: Any, seen: list[np.ndarray | bytes], refuse_from: int) -> None:
        self._file, self._seen, self._refuse_from = file, seen, refuse_from

    def __enter__(self) -> Spy:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> None:
        if len(self._seen) == self._refuse_from:
            raise OSError(28, "No space left on device")
        self._seen.append(data)
        self._file.write(data)


def spy_on(monkeypatch: pytest.MonkeyPatch, refuse_from: int = 10**9) -> list[np.ndarray | bytes]:
    """What is written from now on."""
    seen: list[np.ndarray | bytes] = []
    plain: Callable[..., Any] = Path.open

    def opened(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = plain(path, mode, *args, **kwargs)
        return Spy(file, seen, refuse_from) if mode == "wb" else file

    monkeypatch.setattr(Path, "open", opened)
    return seen


@pytest.mark.parametrize("refuse_from", [0, 1, 5])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_save_that_fails_leaves_everything_as_it_was(
    model: LoadedModel,
    saved: Saved,
    monkeypatch: pytest.MonkeyPatch,
    refuse_from: int,
    is_there: bool,
) -> None:
    session = filled_until(model, wide_plan(model), 3)
    if not is_there:
        saved.path.unlink()
    with monkeypatch.context() as patched:
        seen = spy_on(patched, refuse_from)
        with pytest.raises(OSError, match="No space left"):
            session.save(saved.path, VIDEO)
    assert len(seen) == refuse_from
    assert list(saved.path.parent.iterdir()) == [saved.path] * is_there
    assert not is_there or saved.path.read_bytes() == saved.content
    session.save(saved.path, VIDEO)
    assert model.resume(wide_plan(model), saved.path, VIDEO).num_chunks == 3


def test_what_is_not_on_the_disk_does_not_take_the_old_files_place(
    model: LoadedModel, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old file goes only after the new one was flushed."""
    monkeypatch.setattr(snapshot.os, "fsync", lambda _file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        filled_until(model, wide_plan(model), 3).save(saved.path, VIDEO)
    assert list(saved.path.parent.iterdir()) == [saved.path]
    assert saved.path.read_bytes() == saved.content


@pytest.mark.parametrize(("dtype", "kv_dtype"), FORMS)
def test_saving_holds_no_second_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, kv_dtype: str
) -> None:
    """Every write takes one head at most, from where it lies in the cache."""
    model = load_model(str(make_tiny().folder), dtype=dtype, kv_dtype=kv_dtype)
    session = filled_until(model, wide_plan(model), CHUNKS)
    heads = {
        head.data_ptr(): head.nbytes
        for layer in range(model.checkpoint.spec.text.layers)
        for tensor in session._cache.tensors(layer).values()
        for head in tensor
    }
    seen = spy_on(monkeypatch)
    session.save(tmp_path / "session", VIDEO)
    header, *written, finished = seen
    assert isinstance(header, bytes)
    assert isinstance(finished, bytes)
    assert len(header) == len(finished) + 8
    assert {array.ctypes.data: array.nbytes for array in written} == heads  # type: ignore[union-attr]


@pytest.mark.parametrize("place", [0.2, 0.5, 0.999])
def test_one_flipped_bit_is_seen(model: LoadedModel, saved: Saved, place: float) -> None:
    content = bytearray(saved.content)
    start = 8 + int.from_bytes(content[:8], "little")
    content[start + int(place * (len(content) - start))] ^= 4
    saved.path.write_bytes(content)
    with pytest.raises(ConfigError, match="other bytes than were written"):
        model.resume(wide_plan(model), saved.path, VIDEO)


def test_frames_that_could_not_be_decoded_are_still_counted(
    model: LoadedModel, tmp_path: Path
) -> None:
    session = filled_until(model, wide_plan(model), 0)
    for batch in batches(wide_plan(model))[:2]:
        session.feed(replace(batch, num_corrupt=batch.chunk_index + 1))
    session.save(tmp_path / "session", VIDEO)
    again = model.resume(wide_plan(model), tmp_path / "session", VIDEO)
    assert again.num_corrupt == session.num_corrupt == 3
    again.rewind(1)
    assert again.num_corrupt == 1


def test_the_newer_file_takes_the_place_of_the_older(model: LoadedModel, saved: Saved) -> None:
    filled_until(model, wide_plan(model), 1).save(saved.path, VIDEO)
    assert model.resume(wide_plan(model), saved.path, VIDEO).num_chunks == 1
    assert list(saved.path.parent.iterdir()) == [saved.path]


def test_any_reader_of_the_format_reads_it(model: LoadedModel, saved: Saved) -> None:
    with safe_open(str(saved.path), framework="np") as file:
        assert file.metadata()["num_chunks"] == "2"
        assert len(list(file.keys())) == 2 * model.checkpoint.spec.text.layers
        shape = file.get_slice("0.keys").get_shape()
    assert (shape[0], shape[2]) == (2, 32)
