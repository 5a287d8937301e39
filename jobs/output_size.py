"""How many bytes of Parquet a video will leave: a typical result, encoded as a real one."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.parquet import RowContext, encode_part, result_tables
from pipeline.questions import prompts_sha256
from pipeline.run import describe
from pipeline.windows import Window
from schemas.events import Event, RequestRow, RequestStatus, VideoResult
from schemas.job import QuerySpec
from schemas.media import StreamIndex
from schemas.ports import ModelFacts

_KEY = "0123456789abcdef" * 4
_ANSWER_TOKENS = 20


def output_bytes(
    index: StreamIndex, windows: Sequence[Window], queries: Sequence[QuerySpec], facts: ModelFacts
) -> int:
    """Bytes of a result with one event per `find` query; most of a small file is its footer."""
    keys = {query.id: _KEY for query in queries}
    context = RowContext("job-01234567", _KEY, facts.name, facts.digest, keys)
    tables = result_tables(_typical(index, windows, queries), context)
    parts = [encode_part(name, table, _KEY) for name, table in tables.items() if table.num_rows]
    return sum(len(data) for _, data in parts)


def _typical(
    index: StreamIndex, windows: Sequence[Window], queries: Sequence[QuerySpec]
) -> VideoResult:
    frames = windows[0].plan.sampling.frame_pts
    said = '{"events":[{"start":12.0,"end":34.0}]}'
    rows = tuple(
        RequestRow(query.id, RequestStatus.FOUND, 1, 0, said, "", "", _ANSWER_TOKENS)
        for query in queries
    )
    events = tuple(
        Event(
            query.id,
            query.find,
            tuple((name, "something") for name in query.fields),
            frames[0],
            frames[-1] + 1,
            index.time_base,
            2.0,
            0.987654321,
            frames[:: max(1, len(frames) // 8)][:8],
        )
        for query in queries
        if query.find
    )
    row = describe(index, windows, 0)
    asked = prompts_sha256([window.ask(queries) for window in windows])
    return VideoResult(index.video_id, index.source.uri, row, rows, events, asked)
