"""Any order of adding, changing, running, killing, harming and cleaning ends in the right rows."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jobs import run_batch, session
from jobs.show import open_output
from pipeline.audit import audit, collect
from pipeline.commit_log import CommitLog
from pipeline.entries import Entry, entry_path
from pipeline.store import FolderStore
from schemas.errors import ConfigError
from schemas.events import TABLES, Event, RequestRow, RequestStatus, VideoResult, VideoRow
from schemas.job import JobSpec
from schemas.media import VideoSource
from tests.jobs.fake_jobs import make_job, run, stepping

QUERIES = ("q", "r", "s")
STEPS = ("file_drafted", "parts_written", "entry_drafted", "entry_linked", "draft_removed")
SEEN = VideoRow(
    "mov", "h264", 64, 64, 0, 9, 0.0, 8.0, 8, 1.0, 8, 1.0, 1.0, 32, 32, 1, 9, 1, 1, 0, (), (), 99
)


class Crash(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


def says(content: bytes, query: str, text: str, fps: float | None) -> str:
    """The one right answer to a question on some bytes under some settings."""
    return f"{content.decode()}|{query}|{text}|{fps}"


class Reader:
    """Stands for `run_video`: answers from the file's bytes, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(
        self,
        source: VideoSource,
        video_id: str,
        job: JobSpec,
        model: Any,
        frames: Any,
        progress: Any,
        keeper: Any,
        asked: Collection[str],
        read_index: Any,
    ) -> VideoResult:
        content = Path(source.path).read_bytes()
        rows, events = [], []
        for query in job.queries:
            if query.id in asked:
                said = says(content, query.id, query.find or "", job.sampling.fps)
                self.asked.append(said)
                rows.append(RequestRow(query.id, RequestStatus.FOUND, 1, 0, said, "", "", 1))
                events.append(Event(query.id, said, (), 0, 5, Fraction(1), 1.0, 1.0, (0,)))
        prompts = tuple((row.query_id, "p") for row in rows)
        return VideoResult(video_id, source.uri, SEEN, tuple(rows), tuple(events), prompts)


class Ledger(RuleBasedStateMachine):
    """One output under everything that may happen to it."""

    def __init__(self) -> None:
        super().__init__()
        self._holder = tempfile.TemporaryDirectory()
        self.folder = Path(self._holder.name)
        self.out = self.folder / "out"
        self.reader = Reader()
        self.contents: dict[str, bytes] = {}
        self.texts = {"q": "a cat"}
        self.fps: float | None = None
        self.hurt: set[str] = set()
        """Places whose live rows were harmed."""
        self._patches = [
            mock.patch.object(run_batch, "run_video", self.reader),
            mock.patch.object(session, "read_headers", lambda sources, _: [8.0] * len(sources)),
            # A lease's thread and its files would only cost time here.
            mock.patch.object(session, "Client", NoLease),
        ]
        for patch in self._patches:
            patch.start()

    def teardown(self) -> None:
        for patch in self._patches:
            patch.stop()
        self._holder.cleanup()

    def job(self) -> JobSpec:
        videos = [str(self.folder / name) for name in sorted(self.contents)]
        queries = [{"id": name, "find": text} for name, text in sorted(self.texts.items())]
        return make_job(self.out, videos, queries, sampling={"fps": self.fps})

    def truth(self) -> dict[tuple[str, str], str]:
        """What is to be said of each (place, question) of the job as it stands."""
        return {
            (str(self.folder / name), query): says(content, query, text, self.fps)
            for name, content in self.contents.items()
            for query, text in self.texts.items()
        }

    def live(self) -> dict[str, Entry]:
        return CommitLog(FolderStore(self.out)).state().live

    def readable(self) -> set[str]:
        """Every answer that lies in an unharmed place."""
        log = CommitLog(FolderStore(self.out))
        parts = [
            part
            for place, entry in log.state().live.items()
            if place not in self.hurt
            for part in entry.parts
            if part.table == "requests"
        ]
        return {row for part in parts for row in log.read_part(part)["answer"].to_pylist()}

    def can_read(self, entry: Entry) -> bool:
        log = CommitLog(FolderStore(self.out))
        try:
            return all(log.read_part(part).num_rows for part in entry.parts)
        except ConfigError:
            return False

    @rule(name=st.sampled_from("abc"), content=st.sampled_from((b"one", b"two", b"three")))
    def put_video(self, name: str, content: bytes) -> None:
        self.contents[name] = content
        (self.folder / name).write_bytes(content)

    @rule(query=st.sampled_from(QUERIES), text=st.sampled_from(("a cat", "a dog")))
    def ask(self, query: str, text: str) -> None:
        self.texts[query] = text

    @precondition(lambda self: len(self.texts) > 1)
    @rule(number=st.integers(0, 2))
    def ask_no_more(self, number: int) -> None:
        del self.texts[sorted(self.texts)[number % len(self.texts)]]

    @rule(fps=st.sampled_from((None, 1.0)))
    def change_setting(self, fps: float | None) -> None:
        self.fps = fps

    @precondition(lambda self: self.contents)
    @rule()
    def run(self) -> None:
        known = self.readable()
        self.reader.asked.clear()
        run(self.job())
        # No answer that was there is computed, and none twice.
        assert set(self.reader.asked) == set(self.truth().values()) - known
        self.hurt &= self.live().keys() - {place for place, _ in self.truth()}
        self.reader.asked.clear()
        run(self.job())
        assert self.reader.asked == []
        self.check_rows()

    def check_rows(self) -> None:
        rows = open_output(str(self.out)).read("requests").to_pylist()
        said = {(row["video_uri"], row["query_id"]): row["answer"] for row in rows}
        assert len(said) == len(rows)
        truth = self.truth()
        # Nothing stale, and nothing missing but what lies under the path of the same bytes.
        assert all(said[pair] == truth[pair] for pair in said.keys() & truth.keys())
        assert set(truth.values()) <= set(said.values())
        events = open_output(str(self.out)).read("events").to_pylist()
        assert sorted(row["label"] for row in events) == sorted(said.values())
        videos = open_output(str(self.out)).read("videos").to_pylist()
        used = {(row["video_uri"], row["unit_key"]) for row in rows}
        assert sorted((row["video_uri"], row["unit_key"]) for row in videos) == sorted(used)

    @precondition(lambda self: self.contents)
    @rule(step=st.sampled_from(STEPS), nth=st.integers(1, 8))
    def run_and_be_killed(self, step: str, nth: int) -> None:
        left = [nth]

        def hook(reached: str) -> None:
            left[0] -= reached == step
            if not left[0]:
                raise Crash

        try:
            with stepping(hook):
                run(self.job())
        except Crash:
            pass
        state = CommitLog(FolderStore(self.out)).state()
        if not state.lost:  # Else it died before it mended anything.
            self.hurt = {
                p for p in self.hurt if p in state.live and not self.can_read(state.live[p])
            }

    @precondition(lambda self: not self.hurt and self.out.exists() and self.live())
    @rule(
        number=st.integers(0, 99),
        which=st.integers(0, 3),
        harm=st.sampled_from(("flip", "cut", "delete")),
    )
    def harm_something(self, number: int, which: int, harm: str) -> None:
        live = self.live()
        entry = live[sorted(live)[number % len(live)]]
        paths = [entry_path(entry.number), *(part.path for part in entry.parts)]
        path = self.out / paths[which % len(paths)]
        pointer = CommitLog(FolderStore(self.out)).pointer() or 0
        if harm == "delete" and path.parent.name == "_log" and entry.number > pointer:
            return  # Of a commit whose writer died right behind it nothing else tells.
        data = bytearray(path.read_bytes())
        if harm == "delete":
            path.unlink()
        else:
            data[number % len(data)] ^= 64
            path.write_bytes(data if harm == "flip" else data[: number % len(data)])
        found = [f for f in audit(CommitLog(FolderStore(self.out))) if f.is_damage]
        assert [f.path for f in found][:1] == [str(path.relative_to(self.out))]
        self.hurt = {entry.place}

    @precondition(lambda self: not self.hurt and self.out.exists())
    @rule()
    def gc(self) -> None:
        log = CommitLog(FolderStore(self.out))
        collect(log, 0, 1e12, dry_run=False)
        named = {part.path for entry in self.live().values() for part in entry.parts}
        assert {file.path for table in TABLES for file in log.store.files(table)} == named
        assert audit(CommitLog(FolderStore(self.out))) == []

    @invariant()
    def verify(self) -> None:
        """Damage is there exactly where harm was done, whatever was killed."""
        if self.out.exists():
            found = [f for f in audit(CommitLog(FolderStore(self.out))) if f.is_damage]
            assert bool(found) == bool(self.hurt)


class NoLease:
    """A client that nobody else looks for."""

    lease = mock.Mock(title="this test")

    def __init__(self, *_: Any) -> None: ...

    def __enter__(self) -> NoLease:
        return self

    def __exit__(self, *_: object) -> None: ...

    def hold(self, units: Iterator[str]) -> None: ...

    def elders(self) -> list[Any]:
        return []


Ledger.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestLedger = Ledger.TestCase
