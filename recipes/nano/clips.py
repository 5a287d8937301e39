"""Step 4c: clips. Whole scenes go through an H.264 file and come back as patch pairs, so that the
decoder meets features as faulty, and as alike from pair to pair, as real ones.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.scenes import Frame, Scene, draw_frame, random_scene
from recipes.nano.shape import RUNS, TOKEN_PX

SIZES = ((320, 240, (3, 4)), (256, 144, (3, 5)), (256, 144, (2, 4)), (320, 180, (3, 5)))
"""Width and height in the file, and merged tokens (rows, columns) it is seen with."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A scene as it is seen."""

    scene: Scene
    grid: tuple[int, int]
    step_s: float
    """Time between sampled frames."""
    pairs: npt.NDArray[np.uint8]
    """(pairs, 2, height, width, 3)."""


def encode(path: Path, scene: Scene, fps: float, crf: int) -> None:
    """Write a scene as an H.264 file of `fps` frames per second."""
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (scene.width, scene.height),
        fps=fps,
        codec="libx264",
        macro_block_size=2,
        quality=None,
        output_params=["-crf", str(crf), "-preset", "veryfast", "-threads", "1"],
    )
    writer.send(None)
    for number in range(int(scene.duration_s * fps)):
        writer.send(np.ascontiguousarray(draw_frame(scene, number / fps)))
    writer.close()


def decode(path: Path) -> Iterator[Frame]:
    """All frames of a file in order, RGB."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)


def draw_clip(seed: int) -> Clip:
    """A random clip; frames that nobody samples are left out of its file."""
    rng = np.random.default_rng((53, seed))
    width, height, grid = SIZES[int(rng.choice(len(SIZES), p=(0.45, 0.2, 0.2, 0.15)))]
    step_s = float(rng.choice([0.5, 1.0, 1.0, 2.0]))
    pairs = int(np.exp(rng.uniform(np.log(20), np.log(140))))
    scene = random_scene(
        seed + 10_000_000,
        width=width,
        height=height,
        duration_s=2 * pairs * step_s,
        num_tracks=4,
        min_span_s=4 * step_s,
    )
    size = (grid[1] * TOKEN_PX, grid[0] * TOKEN_PX)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        encode(path, scene, 1 / step_s, int(rng.integers(18, 33)))
        frames = [
            np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC))
            for f in decode(path)
        ]
    even = len(frames) // 2 * 2
    stack = np.stack(frames[:even]).reshape(-1, 2, size[1], size[0], 3)
    return Clip(scene, grid, step_s, stack)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=120)
    options = parser.parse_args()
    started, part = time.monotonic(), 20
    for first in range(options.first, options.first + options.count, part):
        clips = [draw_clip(seed) for seed in range(first, first + part)]
        with (RUNS / f"clips{first:05d}.pkl").open("wb") as file:
            pickle.dump(clips, file, protocol=5)
        print(f"{first + part} clips in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
