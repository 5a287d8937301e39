"""The job file: what it accepts, and how it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.errors import ConfigError
from schemas.job import (
    SCHEMA_FILE,
    SamplingSpec,
    json_schema,
    queries_of,
    read_job,
    sampling_of,
)

GOOD: dict[str, Any] = {"videos": ["a.mp4"], "queries": [{"id": "q", "find": "a cat"}]}


def ask(*options: object) -> dict[str, Any]:
    return {"queries": [{"id": "q", "ask": "Which?", "options": list(options)}]}


def asked_of_a(*queries: object) -> dict[str, Any]:
    return {"videos": [{"uri": "a", "queries": list(queries)}]}


def test_a_video_may_have_settings_of_its_own() -> None:
    video = {"uri": "a", "queries": ["r", {"id": "s", "ask": "Why?"}], "sampling": {"fps": 1}}
    queries = [*GOOD["queries"], {"id": "r", "find": "a dog"}]
    change = {"videos": [video, "b"], "queries": queries, "sampling": {"max_frames": 9}}
    job = read_job({**GOOD, **change}, where="t")
    a, b = job.videos
    assert [query.id for query in queries_of(a, job.queries)] == ["r", "s"]
    assert [query.id for query in queries_of(b, job.queries)] == ["q", "r"]
    assert sampling_of(a, job.sampling) == SamplingSpec(fps=1.0, max_frames=9)
    assert sampling_of(b, job.sampling) == job.sampling


@pytest.mark.parametrize(("text", "size"), [("20g", 20 * 1024**3), ("1.5k", 1536), (7, 7)])
def test_sizes_are_read(text: object, size: int) -> None:
    assert read_job({**GOOD, "inputs": {"max_bytes": text}}, where="t").inputs.max_bytes == size


def test_options_are_kept_in_order() -> None:
    most = [str(number) * 100 for number in range(10, 74)]
    for options in (["sunny", "rain"], ["a" * 200, "b"], most):
        job = read_job({**GOOD, **ask(*options)}, where="job.yaml")
        assert job.queries[0].options == tuple(options)


def test_a_short_job_gets_the_defaults() -> None:
    job = read_job(GOOD, where="job.yaml")
    assert job.model.name == "nano"
    assert job.videos[0].uri == "a.mp4"
    assert job.sampling.fps is None


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("256k", 262144), ("1m", 1048576), ("4096", 4096), (512, 512), ("0.5k", 512)],
)
def test_token_counts(text: object, tokens: int) -> None:
    job = read_job({**GOOD, "model": {"context": text}}, where="job.yaml")
    assert job.model.context == tokens


def test_clips_are_exact() -> None:
    videos = [{"uri": "a.mp4", "clip": ["00:10:00", 700.1]}]
    job = read_job({**GOOD, "videos": videos}, where="job.yaml")
    clip = job.videos[0].clip_s
    assert clip is not None
    assert clip[0] == 600
    assert clip[1] * 10 == 7001


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"vidoes": []}, "unknown key `vidoes`; did you mean `videos`?"),
        ({"sampling": {"fpss": 1}}, "unknown key `sampling.fpss`; did you mean `fps`?"),
        ({"sampling": {"fps": -1}}, "`sampling.fps`: Input should be greater than 0 (given -1)"),
        ({"sampling": {"fps": float("nan")}}, "`sampling.fps`"),
        ({"model": {"context": "lots"}}, "write 262144, 256k or 1m"),
        ({"model": {"yarn": 1}}, "`model.yarn`: Input should be greater than 1 (given 1)"),
        ({"model": {"yarn": 5}}, "`model.yarn`: Input should be less than or equal to 4"),
        ({"model": {"dtype": "int8"}}, "`model.dtype`"),
        ({"queries": []}, "`queries`"),
        ({"queries": [{"id": "q"}]}, "either `find` (spans) or `ask` (a text)"),
        ({"queries": [{"id": "q", "find": "a", "ask": "b"}]}, "either `find`"),
        ({"queries": [{"id": "q", "ask": "b", "fields": {"x": "string"}}]}, "belong to `find`"),
        ({"queries": [{"id": "q", "find": "a", "options": ["b", "c"]}]}, "belong to `ask`"),
        (ask(), "`queries.0.options`: 0 options were given; write 2 to 64."),
        (ask("a"), "1 options were given; write 2 to 64."),
        (ask(*map(str, range(65))), "65 options were given; write 2 to 64."),
        (ask("a", "b", "a"), "`queries.0.options`: option 'a' is given twice; write each once."),
        (ask("a", " "), "`queries.0.options.1`: an option has 1 to 200 characters"),
        (ask("a" * 201, "b"), "`queries.0.options.0`: an option has 1 to 200 characters"),
        (
            ask("maybe", True),
            "`queries.0.options.1`: True is not a text; put the option in quotes.",
        ),
        ({"queries": [{"id": "q", "find": "a", "fields": {"start": "string"}}]}, "is taken"),
        ({"queries": [{"id": "q", "find": "a"}, {"id": "q", "find": "b"}]}, "used twice"),
        ({"videos": [{"uri": "a", "clip": [5, 2]}]}, "ends before it starts"),
        ({"videos": [{"uri": "a", "clip": ["x", 2]}]}, "is not a time"),
        ({"videos": []}, "`videos`"),
        ({"queries": [{"id": "1 2", "find": "a"}]}, "`queries.0.id`"),
        ({"zzz": 1}, "known keys: cluster, inputs, limits, model, name, output, queries, "),
        ({"limits": {"max_token": 1}}, "`limits.max_token`; did you mean `max_tokens`?"),
        ({"inputs": {"max_bytes": "much"}}, "'much' is not a size; write bytes, 500m or 20g"),
        (asked_of_a(), "a has an empty list of queries"),
        (asked_of_a("qq"), "asks for query 'qq', which is none; did you mean 'q'?"),
        (asked_of_a("q", "q"), "a asks query 'q' twice"),
        (asked_of_a({"id": "z", "fin": "x"}), "`videos.0.queries.0.fin`; did you mean `find`?"),
        (
            {"videos": [{"uri": "a", "sampling": {"max_frame": 1}}]},
            "`videos.0.sampling.max_frame`; did you mean `max_frames`?",
        ),
    ],
)
def test_refusals_are_sentences(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_job({**GOOD, **change}, where="job.yaml")
    assert "job.yaml: " in caught.value.message
    assert sentence in caught.value.message


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_job({"videos": [], "querys": []}, where="j")
    assert caught.value.message.count("\n") == 2


def test_what_is_no_mapping_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds no job"):
        read_job(["a"], where="job.yaml")


def test_the_committed_json_schema_is_true() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == json_schema()
