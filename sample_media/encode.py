"""Scenes → files, through ffmpeg-python and the ffmpeg binary that comes as a wheel."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg
import numpy as np

from pipeline.scenes import Frame, Scene, draw_frame

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a scene is written."""

    fps: int = 8
    options: dict[str, Any] = field(default_factory=dict)
    """Output options of ffmpeg, `vcodec` first of all."""
    has_audio: bool = False
    turned: int = 0
    """Clockwise turn that players must undo, in degrees; pixels are stored turned the other way."""


def frames_of(scene: Scene, fps: int) -> Iterable[Frame]:
    """All frames of a scene at a constant rate."""
    for number in range(round(scene.duration_s * fps)):
        yield draw_frame(scene, number / fps)


def encode_scene(scene: Scene, path: Path, encoding: Encoding) -> None:
    """Draw and write one file, under its name once it is whole."""
    sideways = encoding.turned in (90, 270)
    size = (scene.height, scene.width) if sideways else (scene.width, scene.height)
    pictures = ffmpeg.input(
        "pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{size[0]}x{size[1]}", r=encoding.fps
    )
    streams = [pictures]
    if encoding.has_audio:
        tone = f"sine=frequency=330:duration={scene.duration_s}"
        streams.append(ffmpeg.input(tone, f="lavfi"))
    options = {"pix_fmt": "yuv420p", "loglevel": "error", "threads": 1, **encoding.options}
    part = path.with_name(f"part_{path.name}")
    writer = ffmpeg.output(*streams, str(part), **options).overwrite_output()
    process = writer.run_async(cmd=FFMPEG, pipe_stdin=True)
    try:
        for frame in frames_of(scene, encoding.fps):
            stored = np.rot90(frame, k=encoding.turned // 90) if encoding.turned else frame
            process.stdin.write(np.ascontiguousarray(stored).tobytes())
    finally:
        # Behind Ctrl-C too, where `with` would wait for a quarter of a second.
        process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"ffmpeg could not write {path.name}")
    if encoding.turned:
        part = _flag_turn(part, encoding.turned)
    part.replace(path)


def _flag_turn(upright: Path, turned: int) -> Path:
    flagged = upright.with_name(f"turned_{upright.name}")
    # The flag counts anticlockwise.
    source = ffmpeg.input(str(upright), display_rotation=360 - turned)
    source.output(str(flagged), c="copy", loglevel="error").overwrite_output().run(cmd=FFMPEG)
    upright.unlink()
    return flagged


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """What ffmpeg itself says of a file's frames."""

    time_base: str
    pts: list[int]


def second_opinion(path: Path) -> SecondOpinion:
    """Presentation times of all decoded frames, read from ffmpeg's own report."""
    command = [FFMPEG, "-hide_banner", "-nostdin", "-copyts", "-noautorotate", "-i", str(path)]
    command += ["-map", "0:v:0", "-vf", "showinfo", "-fps_mode", "passthrough", "-f", "null", "-"]
    report = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    base = re.search(r"config in time_base: (\d+/\d+)", report)
    pts = [int(found) for found in re.findall(r"n: *\d+ pts: *(-?\d+) ", report)]
    return SecondOpinion(base[1] if base else "", pts)
