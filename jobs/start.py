"""From a job's `cluster` section to the executor that does its units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from jobs.children import CallLost, Limits, one_child
from jobs.cluster import EmbeddedCluster, RunningCluster
from jobs.dask_executor import DaskExecutor, Patience
from jobs.executor import Executor, SerialExecutor
from jobs.mishaps import poison_error
from jobs.tools import model_maker
from pipeline.probe import header_seconds, probe
from pipeline.run import probe_piece
from schemas.job import ClusterSpec, JobSpec
from schemas.media import StreamIndex, VideoSource
from schemas.ports import ModelFacts


def start_executor(job: JobSpec, facts: ModelFacts, say: Callable[[str], None]) -> Executor:
    """The executor that the job asks for, its model loaded on the workers.

    `say` hears what happens to the cluster meanwhile. Raises ConfigError or ResourceError where
    there is no such cluster, or no such model on it.
    """
    return start_with(job.cluster, model_maker(job.model, facts.digest), say)


def start_with(spec: ClusterSpec, maker: Callable[[], Any], say: Callable[[str], None]) -> Executor:
    """The same with another tool than the plain model; `maker` goes to the workers."""
    if spec.executor == "serial":
        return SerialExecutor(maker)
    return DaskExecutor(
        maker,
        _cluster_of(spec),
        limits=limits_of(spec),
        patience=Patience(back_s=spec.wait_s, task_s=spec.unit_limit_s),
        on_notice=say,
    )


def _cluster_of(spec: ClusterSpec) -> EmbeddedCluster | RunningCluster:
    if spec.scheduler is not None:
        return RunningCluster(spec.scheduler, insecure=spec.insecure)
    return EmbeddedCluster(model_workers=spec.model_workers, decode_workers=spec.decode_workers)


def limits_of(spec: ClusterSpec) -> Limits:
    """What a decoder may take."""
    return Limits(spec.decode_limit_s, spec.decode_memory_mib * 1024**2)


@contextmanager
def careful_probe(spec: ClusterSpec) -> Iterator[Callable[[VideoSource, str], StreamIndex]]:
    """A probe that survives what it reads: a probe decodes a frame, so it is done by a child, where
    decoding has one too. Raises InputError or TransientError for a video that takes it down."""
    if spec.executor == "serial":
        yield probe
        return
    limits = limits_of(spec)
    with one_child() as child:

        def read(source: VideoSource, video_id: str) -> StreamIndex:
            try:
                return child.call(probe_piece, (source, video_id), limits)
            except CallLost as lost:
                raise poison_error(source.uri, spec, lost) from None

        yield read


def read_headers(sources: Sequence[VideoSource], spec: ClusterSpec) -> list[float]:
    """Each video's seconds by its header, 0 where it tells none. Even a header may end who reads
    it, so that is a child where decoding has one too."""
    if spec.executor == "serial":
        return [header_seconds(source) for source in sources]
    seconds = []
    limits = replace(limits_of(spec), attempts=1)
    with one_child() as child:
        for source in sources:
            try:
                seconds.append(child.call(header_seconds, source, limits))
            except CallLost:
                seconds.append(0.0)
    return seconds
