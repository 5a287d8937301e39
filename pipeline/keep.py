"""Sessions that outlive their process: a killed prefill goes on where it was last saved.

Promises that a file is used only for the model, video and frames it was made of, and that a disk
that refuses costs the saving and not the video.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from schemas.errors import ConfigError
from schemas.media import FrameBatch
from schemas.plan import VideoPlan
from schemas.ports import FilledSession, FillingSession, ModelFacts, VideoModel

SUFFIX = ".session"


@dataclass(slots=True)
class SessionKeeper:
    """Where the sessions of one unit are saved and how often; one keeper serves one run of it."""

    folder: Path | None
    """None: nothing is saved."""
    prefix: str = ""
    """Begins the files' names, so that a finished unit's can be found."""
    every_s: float = 600.0
    """Seconds of work that may be lost."""
    keep: bool = False
    """Whether whole sessions stay, for questions that come later."""
    clock: Callable[[], float] = time.monotonic
    _notes: list[str] = field(default_factory=list)

    def begin(self, model: VideoModel, plan: VideoPlan, video_id: str) -> Keeping:
        """The session of a plan: a saved one as far as it was filled, else a new one."""
        path = self._path(model.facts, plan, video_id)
        session = self._resumed(model, plan, path, video_id)
        saved = session.num_chunks if session else 0
        return Keeping(session or model.begin(plan), self, path, video_id, self.clock(), saved)

    def notes(self) -> tuple[str, ...]:
        """What did not go as asked, for the `videos` table."""
        return tuple(dict.fromkeys(self._notes))

    def note(self, text: str) -> None:
        self._notes.append(text)

    def _path(self, facts: ModelFacts, plan: VideoPlan, video_id: str) -> Path | None:
        if self.folder is None:
            return None
        named = hashlib.sha256(f"{facts.digest} {video_id} {plan.sampling}".encode())
        return self.folder / f"{self.prefix}{named.hexdigest()[:24]}{SUFFIX}"

    def _resumed(
        self, model: VideoModel, plan: VideoPlan, path: Path | None, video_id: str
    ) -> FillingSession | None:
        if path is None or not path.is_file():
            return None
        try:
            return model.resume(plan, path, video_id)
        except ConfigError as error:
            # Damaged, or of another version: prefilling again is what the file was to spare.
            self.note(f"a saved session was not used: {error.message}")
            path.unlink(missing_ok=True)
            return None


NOT_KEPT = SessionKeeper(None)


@dataclass(slots=True)
class Keeping:
    """A filling session and its file."""

    session: FillingSession
    keeper: SessionKeeper
    path: Path | None
    video_id: str
    saved_at_s: float
    saved_chunks: int

    @property
    def num_chunks(self) -> int:
        """Chunks that are in."""
        return self.session.num_chunks

    @property
    def num_corrupt(self) -> int:
        return self.session.num_corrupt

    def feed(self, batch: FrameBatch) -> None:
        """One more chunk; saved when enough work would be lost."""
        self.session.feed(batch)
        if self.keeper.clock() - self.saved_at_s >= self.keeper.every_s:
            self._save()

    def finish(self) -> FilledSession:
        """The whole video is in; a session that is to be kept is saved first."""
        if self.keeper.keep:
            self._save()
        return self.session.finish()

    def _save(self) -> None:
        if self.path is None or self.session.num_chunks == self.saved_chunks:
            return
        try:
            self.session.save(self.path, self.video_id)
            self.saved_chunks = self.session.num_chunks
        except OSError as error:
            self.keeper.note(f"the session could not be saved ({error.strerror or error})")
        # A slow disk is not asked again at once.
        self.saved_at_s = self.keeper.clock()


def drop_sessions(folder: Path, prefix: str) -> None:
    """Remove the files of a finished unit."""
    for path in folder.glob(f"{prefix}*{SUFFIX}"):
        path.unlink(missing_ok=True)
