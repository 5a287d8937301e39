"""Makes the sample media and what is known of them: `python -m sample_media.generate`.

`--check` draws nothing; it checks that the committed files are those that `expected/` speaks of.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.scenes import Scene, Track, spans_of
from sample_media.encode import Encoding, encode_scene, second_opinion

HERE = Path(__file__).parent
EXPECTED = HERE / "expected"
LATE_START_S = 100


@dataclass(frozen=True, slots=True)
class Sample:
    """One file: its scene, how it is written, and what else is asked that it does not show."""

    name: str
    scene: Scene
    encoding: Encoding
    absent: tuple[str, ...] = ("purple cross",)
    start_s: float = 0.0
    """Time of the first frame on the file's own clock."""
    about: str = ""
    keep_bytes: float = 1.0
    """Share of the file that is kept: below 1 its tail is torn off."""
    extra: dict[str, Any] = field(default_factory=dict)


def thing(
    name: str, *spans: tuple[float, float], at: tuple[float, float], size: float = 0.32
) -> Track:
    """A track by its name, its times and its place."""
    colour, shape = name.split()
    return Track(colour, shape, spans, at[0], at[1], 0.05, 9.0, size)


def scene(seed: int, seconds: float, background: str, *tracks: Track) -> Scene:
    return Scene(seed, 256, 192, seconds, background, tracks)


LEFT, RIGHT, LOW_LEFT, LOW_RIGHT = (0.27, 0.3), (0.73, 0.3), (0.27, 0.7), (0.73, 0.7)
H264 = {"vcodec": "libx264", "crf": 33, "preset": "slow", "g": 48, "bf": 3}

SAMPLES = (
    Sample(
        "several_events.mp4",
        scene(
            11,
            180,
            "clutter",
            thing("red circle", (12, 30), at=LEFT),
            thing("blue square", (50, 58), at=RIGHT),
            thing("yellow star", (84, 144), at=LOW_LEFT),
            thing("green triangle", (100, 120), at=LOW_RIGHT),
        ),
        Encoding(options=H264 | {"acodec": "aac", "b:a": "24k"}, has_audio=True),
        absent=("red square", "purple cross"),
        about="some minutes, four events of different length, B-frames, an audio track",
    ),
    Sample(
        "nothing_there.mkv",
        scene(12, 40, "plasma"),
        Encoding(options={"vcodec": "libx265", "crf": 33, "x265-params": "log-level=error"}),
        absent=("red circle", "blue square", "yellow star"),
        about="nothing but background, HEVC, no audio",
    ),
    Sample(
        "twice.webm",
        scene(
            13,
            60,
            "gradient",
            thing("red circle", (8, 16), (36, 50), at=LEFT),
            thing("white ring", (20, 28), at=LOW_RIGHT),
        ),
        Encoding(options={"vcodec": "libvpx-vp9", "crf": 42, "b:v": 0, "g": 64}),
        absent=("white circle", "blue square"),
        about="the same thing twice, VP9",
    ),
    Sample(
        "variable_rate.mp4",
        scene(
            14,
            60,
            "stripes",
            thing("blue square", (10, 24), at=RIGHT),
            thing("purple triangle", (30, 52), at=LEFT),
        ),
        Encoding(options=H264 | {"vf": "select='gt(sin(n*n*0.7),-0.3)'", "fps_mode": "vfr"}),
        absent=("red circle", "blue triangle"),
        about="frames at uneven times",
    ),
    Sample(
        "late_start.ts",
        scene(
            15,
            40,
            "noise",
            thing("yellow star", (6, 15), at=LOW_LEFT),
            thing("red circle", (22, 34), at=RIGHT),
        ),
        Encoding(
            options=H264
            | {"output_ts_offset": LATE_START_S, "muxdelay": 0, "muxpreload": 0, "bf": 2, "g": 24}
        ),
        absent=("yellow circle", "blue square"),
        start_s=LATE_START_S,
        about="a transport stream whose clock starts at 100 s",
    ),
    Sample(
        "turned.mov",
        scene(16, 32, "clutter", thing("green triangle", (8, 20), at=RIGHT)),
        Encoding(options=H264, turned=90),
        absent=("red circle", "green square"),
        about="stored on its side with a rotation flag, as phones do",
    ),
    Sample(
        "odd_frames.avi",
        scene(17, 24.875, "gradient", thing("red circle", (5, 14), at=LOW_RIGHT)),
        Encoding(options={"vcodec": "mpeg4", "q:v": 9, "g": 40}),
        absent=("blue square", "yellow star"),
        about="MPEG-4 in AVI, an odd number of frames at 1 fps",
    ),
    Sample(
        "modern.mp4",
        scene(18, 30, "plasma", thing("blue square", (12, 22), at=LEFT)),
        Encoding(options={"vcodec": "libsvtav1", "crf": 45, "preset": 8, "g": 48}),
        absent=("red circle", "white square"),
        about="AV1",
    ),
    Sample(
        "one_frame.mp4",
        scene(19, 0.125, "gradient", thing("yellow star", (0, 1), at=LEFT)),
        Encoding(options=H264 | {"bf": 0}),
        absent=("red circle",),
        about="a single frame",
    ),
    Sample(
        "torn_tail.mkv",
        scene(20, 40, "stripes", thing("red circle", (6, 14), at=LEFT)),
        Encoding(options=H264),
        absent=("blue square",),
        keep_bytes=0.6,
        about="its last two fifths are missing",
    ),
)
TEXT = HERE / "not_a_video.mp4"


def describe(sample: Sample, path: Path) -> dict[str, Any]:
    """What is known of a file: from construction, and from a second tool."""
    names = sorted({track.name for track in sample.scene.tracks})
    events = [
        {"find": f"a {name}", "start_s": start + sample.start_s, "end_s": end + sample.start_s}
        for name in names
        for start, end in spans_of(sample.scene, name)
    ]
    other = second_opinion(path)
    return {
        "file": path.name,
        "about": sample.about,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "codec": str(sample.encoding.options["vcodec"]),
        "width": sample.scene.width,
        "height": sample.scene.height,
        "rotation": sample.encoding.turned,
        "start_s": sample.start_s,
        "duration_s": sample.scene.duration_s,
        "is_whole": sample.keep_bytes == 1.0,
        "events": events,
        "absent": [f"a {name}" for name in sample.absent],
        "second_tool": {"tool": "ffmpeg showinfo", "time_base": other.time_base, "pts": other.pts},
    }


def make(sample: Sample) -> None:
    """Draw, write and describe one sample."""
    path = HERE / sample.name
    encode_scene(sample.scene, path, sample.encoding)
    if sample.keep_bytes < 1:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * sample.keep_bytes)])
    known = json.dumps(describe(sample, path), indent=1)
    (EXPECTED / f"{sample.name}.json").write_text(known + "\n", encoding="utf-8")
    print(f"{sample.name}: {path.stat().st_size // 1024} KiB", flush=True)


def check() -> list[str]:
    """Names of files that are not what `expected/` speaks of."""
    wrong = []
    for known in sorted(EXPECTED.glob("*.json")):
        facts = json.loads(known.read_text(encoding="utf-8"))
        path = HERE / facts["file"]
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != facts["sha256"]:
            wrong.append(path.name)
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only check the committed files")
    parser.add_argument("--only", default="", help="make this one file")
    options = parser.parse_args()
    if options.check:
        if wrong := check():
            sys.exit(
                f"sample media differ from expected/: {', '.join(wrong)}; check them out again."
            )
        return
    EXPECTED.mkdir(exist_ok=True)
    for sample in SAMPLES:
        if options.only in sample.name:
            make(sample)
    TEXT.write_text("This is a text that calls itself a video.\n", encoding="utf-8")


if __name__ == "__main__":
    main()
