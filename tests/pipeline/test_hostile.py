"""Files that are not what they say: one clear sentence each, and nothing else is opened."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.probe import foreign_error, header_seconds, probe
from sample_media.generate import HERE
from schemas.errors import InputError
from schemas.media import VideoSource


class Canary:
    """Notices whether a named pipe was opened for reading, or a port was called."""

    def __init__(self, folder: Path) -> None:
        self.pipe = folder / "secret.mp4"
        os.mkfifo(self.pipe)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(0.05)
        self.port = self.server.getsockname()[1]
        self.was_touched = False
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=f) for f in (self._watch_pipe, self._watch_port)]
        for thread in self._threads:
            thread.start()

    def _watch_pipe(self) -> None:
        while not self._stop.is_set():
            try:
                os.close(os.open(self.pipe, os.O_WRONLY | os.O_NONBLOCK))
                self.was_touched = True  # Opening succeeds only while somebody reads.
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
            self._stop.wait(0.001)

    def _watch_port(self) -> None:
        while not self._stop.is_set():
            try:
                self.server.accept()[0].close()
                self.was_touched = True
            except TimeoutError:
                continue

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.server.close()


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    watcher = Canary(tmp_path)
    yield watcher
    watcher.close()


def udp_ports() -> set[str]:
    return {line.split()[1] for line in Path("/proc/self/net/udp").read_text().splitlines()[1:]}


SCRIPTS = {
    "ffconcat": "ffconcat version 1.0\nfile secret.mp4\n",
    "concat without header": "file 'secret.mp4'\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nsecret.mp4\n#EXT-X-ENDLIST\n",
    "hls over http": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:{port}/a.ts\n",
    "sdp": (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 45454 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    ),
    "dash": (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
        '<Period><AdaptationSet><Representation id="1"><BaseURL>http://127.0.0.1:{port}/a.mp4'
        "</BaseURL></Representation></AdaptationSet></Period></MPD>"
    ),
    "subtitle index": "# VobSub index file, v7\n",
}


@pytest.mark.parametrize("name", ["clip.mp4", "clip.m3u8", "clip.sdp", "concat:clip.mp4"])
@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_script_opens_nothing(kind: str, name: str, tmp_path: Path, canary: Canary) -> None:
    path = tmp_path / name
    path.write_text(SCRIPTS[kind].replace("{port}", str(canary.port)))
    before = udp_ports()
    with pytest.raises(InputError) as caught:
        probe(VideoSource(name, str(path)))
    assert caught.value.reason == "not_video"
    assert udp_ports() <= before
    assert not canary.was_touched
    assert header_seconds(VideoSource(name, str(path))) == 0.0


def test_the_canary_sings(tmp_path: Path, canary: Canary) -> None:
    """What the tests above would notice: the same script, opened the careless way."""
    path = tmp_path / "clip.mp4"
    path.write_text(SCRIPTS["ffconcat"])
    with pytest.raises(av.error.FFmpegError), av.open(str(path)):
        pass
    assert canary.was_touched


def probe_error(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        probe(VideoSource(path.name, str(path)))
    message = caught.value.message
    assert path.name in message
    assert "0x" not in message
    assert message.endswith(".")
    return caught.value


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("Not a video.")
    (tmp_path / "noise.mkv").write_bytes(os.urandom(5000))
    os.mkfifo(tmp_path / "pipe.mp4")
    assert probe_error(tmp_path / "missing.mp4").reason == "missing_file"
    assert probe_error(tmp_path / "empty.mp4").reason == "empty_file"
    assert probe_error(tmp_path / "text.mp4").reason == "not_video"
    assert probe_error(tmp_path / "noise.mkv").reason == "not_video"
    assert probe_error(tmp_path / "pipe.mp4").reason == "not_a_file"
    assert probe_error(tmp_path).reason == "directory"


def test_a_cut_file_without_its_index_is_refused(tmp_path: Path) -> None:
    data = (HERE / "modern.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) // 2])
    assert probe_error(path).reason == "not_video"


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        silence.sample_rate = 16000
        for frame in (silence, None):
            container.mux(stream.encode(frame))
    assert probe_error(path).reason == "no_video_stream"


def test_names_with_odd_characters(tmp_path: Path) -> None:
    path = tmp_path / "a clip: 50% [new] 'x' ü.mp4"
    shutil.copy(HERE / "modern.mp4", path)
    assert probe(VideoSource(path.name, str(path))).num_frames == 240


def test_every_error_of_the_decoder_library_has_a_way_through_the_border() -> None:
    kinds = [
        kind
        for kind in vars(av.error).values()
        if isinstance(kind, type) and issubclass(kind, av.error.FFmpegError)
    ]
    assert len(kinds) > 10
    source = VideoSource("v.mp4", "/v.mp4")
    for kind in kinds:
        turned = foreign_error(source, kind(1, "at 0xdeadbeef", "/secret/place"))
        assert isinstance(turned, InputError)
        assert turned.reason in ("denied", "missing_file", "frame_too_large", "not_video")
        assert "0x" not in turned.message
        assert "secret" not in turned.message
