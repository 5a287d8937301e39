"""Where videos come from: lists, tables, URLs; each as if it stood in the job file."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pytest
import stamina

from jobs.manifest import Unit, build_units, find_videos
from jobs.remote import is_url, look_up
from sample_media.generate import HERE
from schemas.errors import ConfigError, InputError
from schemas.job import InputsSpec, JobSpec, read_job
from tests.jobs.fakes import FACTS

QUERIES = [{"id": "q", "find": "a cat"}, {"id": "r", "ask": "Why?"}]


@pytest.fixture(autouse=True)
def quick_retries() -> Iterator[None]:
    stamina.set_testing(True, attempts=3)
    yield
    stamina.set_testing(False)


def job(*videos: Any, **more: Any) -> JobSpec:
    return read_job({"videos": list(videos), "queries": QUERIES, **more}, where="t")


def names(spec: JobSpec, base: Path | None = None) -> list[str]:
    return [wanted.source.uri for wanted in find_videos(spec, base)]


def refusal(spec: JobSpec, base: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        find_videos(spec, base)
    return caught.value.message


def test_a_text_list_starts_at_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "a.txt").write_text("# two\nx.mp4\n\n/abs/y.mp4\n")
    assert names(job("lists/a.txt"), tmp_path) == ["lists/x.mp4", "/abs/y.mp4"]
    (found, _) = find_videos(job("lists/a.txt"), tmp_path)
    assert found.source.path == str(tmp_path / "lists" / "x.mp4")


def test_a_list_may_name_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("d/b.mp4", "d/a.mkv", "d/c.doc", "e/z1.mp4", "e/z2.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "all.txt").write_text("d\ne/z*.mp4\n")
    expected = ["d/a.mkv", "d/b.mp4", "e/z1.mp4", "e/z2.mp4"]
    assert names(job("all.txt"), tmp_path) == expected


ROWS = {
    "uri": ["a.mp4", "b.mp4", "c.mp4"],
    "clip_start": ["10", "", ""],
    "clip_end": ["00:01:00", "", ""],
    "queries": ["r", "q; r", '["q", {"id": "own", "find": "a dog"}]'],
    "fps": ["0.5", "", ""],
    "_note": ["x", "y", "z"],
}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_gives_each_video_its_own_clip_questions_and_sampling(
    tmp_path: Path, suffix: str
) -> None:
    frame = pl.DataFrame(ROWS).with_columns(pl.all().replace("", None))
    if suffix == "csv":
        frame.write_csv(tmp_path / "v.csv")
    else:
        frame.with_columns(pl.col("fps").cast(pl.Float64)).write_parquet(tmp_path / "v.parquet")
    first, second, third = find_videos(job(f"v.{suffix}", sampling={"fps": 2}), tmp_path)
    assert first.source.clip_s == (10, 60)
    assert [[q.id for q in w.queries] for w in (first, second, third)] == [
        ["r"],
        ["q", "r"],
        ["q", "own"],
    ]
    assert [w.sampling.fps for w in (first, second, third)] == [0.5, 2.0, 2.0]
    assert third.source.path == str(tmp_path / "c.mp4")


def test_what_stands_beside_a_list_holds_for_its_rows(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("uri,queries\na.mp4,r\nb.mp4,\n")
    beside = {"uri": "v.csv", "clip": [0, 5], "queries": ["q"]}
    first, second = find_videos(job(beside), tmp_path)
    assert [q.id for q in first.queries] == ["r"]
    assert [q.id for q in second.queries] == ["q"]
    assert first.source.clip_s == second.source.clip_s == (0, 5)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("uri,clip_strat\na.mp4,1\n", "unknown column 'clip_strat'; did you mean 'clip_start'?"),
        ("uri,clip_start\na.mp4,1\n", "v.csv line 2: a clip has both clip_start and clip_end."),
        ("uri,clip_start,clip_end\na.mp4,9,1\n", "v.csv line 2: clip ['9', '1'] ends before"),
        ("uri,fps\na.mp4,\nb.mp4,-1\n", "v.csv line 3: `sampling.fps`: Input should be greater"),
        ("uri,queries\na.mp4,k\n", "a.mp4 asks for query 'k', which is none"),
        ("uri,queries\na.mp4,[1\n", "v.csv line 2: queries is no JSON list"),
        ("fps\n1\n", "v.csv line 2: `uri` is missing."),
        ("uri\n", "list v.csv names no video"),
        ("", "list v.csv cannot be read (NoDataError); write it again as csv."),
        ("uri\nw.txt\n", "list v.csv names another list, w.txt; join them."),
    ],
)
def test_a_wrong_list_is_named_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "v.csv").write_text(text)
    assert sentence in refusal(job("v.csv"), tmp_path)


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no.csv cannot be read (No such file" in refusal(job("no.csv"), tmp_path)
    (tmp_path / "p.parquet").write_bytes(b"PAR1 not")
    assert "list p.parquet cannot be read" in refusal(job("p.parquet"), tmp_path)
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe\x00")
    assert "list t.txt cannot be read (UnicodeDecodeError)" in refusal(job("t.txt"), tmp_path)


class Server:
    """A web server over a folder that counts what is asked of it and fails when told to."""

    def __init__(self, folder: Path) -> None:
        self.gets: list[str] = []
        self.failures = 0
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.gets.append(self.path)
                if outer.failures:
                    outer.failures -= 1
                    self.send_error(503)
                elif self.path.startswith("/secret"):
                    self.send_error(403)
                else:
                    super().do_GET()

            def log_message(self, *_: Any) -> None: ...

        handler = functools.partial(Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "www").mkdir()
    made = Server(tmp_path / "www")
    yield made
    made.server.shutdown()
    made.server.server_close()


def named(tmp_path: Path, *videos: Any, **inputs: Any) -> tuple[Unit, ...]:
    cache = {"cache": str(tmp_path / "cache"), **inputs}
    return build_units(job(*videos, inputs=cache), FACTS)


def test_a_url_is_copied_once_and_named_by_its_bytes(tmp_path: Path, server: Server) -> None:
    data = (HERE / "one_frame.mp4").read_bytes()
    (tmp_path / "www" / "v.mp4").write_bytes(data)
    (tmp_path / "local.mp4").write_bytes(data)
    url = f"{server.url}/v.mp4"
    remote, local = named(tmp_path, url, str(tmp_path / "local.mp4"))
    assert remote.key == local.key
    assert remote.place == remote.source.uri == url
    assert Path(remote.source.path).read_bytes() == data
    assert server.gets.count("/v.mp4") == 1
    Path(remote.source.path).unlink()
    (again,) = named(tmp_path, url)
    # The note beside the copy names it without its bytes; they come when they are needed.
    assert (again.key, server.gets.count("/v.mp4")) == (remote.key, 1)
    assert not Path(again.source.path).exists()
    again.wanted.fetched(job(url, inputs={"cache": str(tmp_path / "cache")}))
    assert Path(again.source.path).read_bytes() == data


def test_changed_bytes_behind_a_url_are_another_unit(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "www" / "v.mp4"
    path.write_bytes(b"one")
    (first,) = named(tmp_path, f"{server.url}/v.mp4")
    path.write_bytes(b"other")
    (second,) = named(tmp_path, f"{server.url}/v.mp4")
    assert first.key != second.key
    assert first.place == second.place


def test_a_server_that_fails_is_asked_again(tmp_path: Path, server: Server) -> None:
    (tmp_path / "www" / "v.mp4").write_bytes(b"one")
    server.failures = 2
    (unit,) = named(tmp_path, f"{server.url}/v.mp4")
    assert unit.problem is None
    assert server.gets.count("/v.mp4") == 3


@pytest.mark.parametrize(
    ("path", "inputs", "reason"),
    [
        ("none.mp4", {}, "missing_file"),
        ("secret.mp4", {}, "denied"),
        ("big.mp4", {"max_bytes": 10}, "too_large"),
    ],
)
def test_a_url_that_cannot_be_had_is_a_row(
    tmp_path: Path, server: Server, path: str, inputs: dict[str, Any], reason: str
) -> None:
    (tmp_path / "www" / "big.mp4").write_bytes(b"x" * 11)
    (tmp_path / "www" / "secret.mp4").write_bytes(b"x")
    (unit,) = named(tmp_path, f"{server.url}/{path}", **inputs)
    assert unit.problem is not None
    assert unit.problem.reason == reason
    assert not list((tmp_path / "cache").glob("*.mp4"))


def test_a_server_that_is_away_is_a_row_that_is_tried_again(tmp_path: Path) -> None:
    (unit,) = named(tmp_path, "http://127.0.0.1:9/v.mp4")
    assert unit.problem is not None
    assert unit.problem.reason == "unreachable"
    assert "run the same command again" in unit.problem.message


def test_patterns_folders_and_lists_in_a_store(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    for name in ("/box/a.mp4", "/box/b.mkv", "/box/c.doc"):
        store.pipe(name, name.encode())
    store.pipe("/box/list.csv", b"uri,clip_start,clip_end\na.mp4,0,5\n")
    assert names(job("memory://box/*.m*")) == ["memory:///box/a.mp4", "memory:///box/b.mkv"]
    assert names(job("memory://box/")) == ["memory:///box/a.mp4", "memory:///box/b.mkv"]
    (found,) = find_videos(job("memory://box/list.csv"))
    assert (found.source.uri, found.source.clip_s) == ("memory://box/a.mp4", (0, 5))
    assert "no video matches 'memory://box/*.avi'" in refusal(job("memory://box/*.avi"))


@pytest.mark.parametrize("url", ["rtsp://x/a", "file:///etc/passwd", "zip://a.mp4::http://x/y"])
def test_other_kinds_of_urls_are_refused(url: str) -> None:
    assert is_url(url)
    assert "is of no kind that is read" in refusal(job(url))


def test_a_url_without_its_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(_: str) -> None:
        raise ImportError

    monkeypatch.setattr("fsspec.core.url_to_fs", lacking)
    assert "pip install 'longtake[http]'" in refusal(job("https://example.org/a.mp4"))


def test_the_servers_tag_names_the_copy(tmp_path: Path, server: Server) -> None:
    (tmp_path / "www" / "v.mp4").write_bytes(b"one")
    inputs = InputsSpec(cache=str(tmp_path / "cache"))
    first = look_up(f"{server.url}/v.mp4", inputs)
    assert first == look_up(f"{server.url}/v.mp4", inputs)
    assert first.copy.suffix == ".mp4"
    with pytest.raises(InputError, match="does not exist"):
        look_up(f"{server.url}/w.mp4", inputs)


def test_bytes_without_a_tag_are_copied_every_time(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "www" / "v.mp4").write_bytes(b"one")
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "date_time_string", lambda *_: "")
    for _ in range(2):
        named(tmp_path, f"{server.url}/v.mp4")
    assert server.gets.count("/v.mp4") == 2
