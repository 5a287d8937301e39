"""Codes in a haystack, through the production path: real H.264 files, decoded, sampled, prefilled
in chunks, answered under the grammar, read back from Parquet.

`python -m benchmarks.needles` asks at 8K, 32K and 128K tokens; `--tokens 256k` and
`--tokens 1m` (the million takes 37 minutes to two hours) at these. Every code is asked for
*when* it is on screen, the moment in its middle for the code, and companions for the code beside
them; as often it is asked for codes that differ from a shown one in a letter, and for things that
are never beside a code: `none` is right there, anything else a false alarm. All questions on a
haystack share one prefill, and each needle is a distractor to the others.
`--scrambled` prints other times before the pictures: what is then still right was guessed. `--told`
puts features in the tower's place, as a good one would give them: it measures the decoder alone.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
import time
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from rich.console import Console

from benchmarks._claim import claim
from jobs.session import run_job
from jobs.show import open_output, read_frame
from jobs.tools import load_facts
from model.prompt import PromptLayout
from model.vision import VisionEncoder
from pipeline.lettering import near_code, random_code
from pipeline.needles import NONE, Haystack, Kind, Needle, Sizes, ask_for, draw_haystack
from pipeline.plan import LONGEST_TIME_S
from pipeline.questions import build_questions
from pipeline.scoring import Rate
from recipes.nano.codes import CLASSES
from recipes.nano.retrieving.told import ToldTower
from sample_media.encode import Encoding, encode_scene
from schemas.job import ModelSpec, QuerySpec, read_job
from schemas.ports import PromptCounter
from schemas.time import TimeSpan, timestamp_text

FIRST_SEED = 2_000_000
"""Training draws pictures of its own; it never draws a scene."""
FPS = 4
SHOW_S = 1.0
"""At two pairs a second, one or two pairs show a needle whole."""
ANSWER_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Frames:
    """How large a video is, and how large it is seen."""

    file_px: tuple[int, int]
    pair_tokens: int
    sizes: Sizes


FRAMES = {
    "small": Frames((256, 192), 12, Sizes()),
    "large": Frames((384, 384), 144, Sizes((0.05, 0.085), (0.07, 0.13))),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is asked at one length."""

    clips: int
    needles: int
    frames: str
    first: int = 0
    """Number of the first haystack, which its seed is counted by."""


PLANS = {
    "8k": Plan(16, 14, "small"),
    "32k": Plan(8, 28, "small"),
    "128k": Plan(4, 52, "large"),
    "256k": Plan(2, 52, "large"),
    "1m": Plan(1, 48, "large"),
}
"""To 128K so many that one answer of a kind, gone wrong, does not decide."""
GOALS = {"8k": 0.995, "32k": 0.995, "128k": 0.995, "256k": 0.99, "1m": 0.95}


@dataclass(frozen=True, slots=True)
class Question:
    """One query and its truth."""

    kind: Kind
    ask: str
    needle: Needle | None
    """None: what is asked for is never shown."""

    @property
    def name(self) -> str:
        return self.kind if self.needle else f"{self.kind}_absent"


@dataclass(slots=True)
class Tally:
    """Right answers of each kind, and how far times are from the needle, in seconds."""

    right: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    off_s: list[float] = field(default_factory=list)

    def add(self, question: Question, answer: str) -> bool:
        name, needle = question.name, question.needle
        is_right = answer == (needle.code if needle else NONE)
        if needle and question.kind == "when":
            off_s = distance_s(answer, needle.span_s)
            is_right = off_s <= 2 / FPS
            if is_right:
                self.off_s.append(off_s)
        self.asked[name] = self.asked.get(name, 0) + 1
        self.right[name] = self.right.get(name, 0) + is_right
        return is_right

    def rate(self, name: str) -> Rate:
        return Rate(self.right.get(name, 0), self.asked.get(name, 0))


def distance_s(answer: str, span_s: tuple[float, float]) -> float:
    """From a time as it was said to a span; endless where it is no time."""
    try:
        said = float(answer)
    except ValueError:
        return float("inf")
    return max(0.0, span_s[0] - said, said - span_s[1])


def tokens_of(name: str) -> int:
    """4k as a number."""
    tokens = ModelSpec(context=name).context  # type: ignore[arg-type]
    assert tokens is not None
    return tokens


def count_pairs(counter: PromptCounter, tokens: int, pair_tokens: int, fps: int = FPS) -> int:
    """Patch pairs at `fps` that fit `tokens`."""
    pairs = filled = 0
    while True:
        middle = Fraction(4 * pairs + 1, 2 * fps)
        filled += counter.pair_tokens(timestamp_text(middle), pair_tokens)
        if filled > tokens:
            return pairs
        pairs += 1


def questions_on(haystack: Haystack) -> list[Question]:
    """All that is asked of one haystack."""
    asked = []
    for needle in haystack.needles:
        asked.append(Question("when", ask_for("when", code=needle.code), needle))
        text = ask_for("code_at", seconds=middle_pair_s(needle.span_s))
        asked.append(Question("code_at", text, needle))
        if needle.companion:
            text = ask_for("code_with", thing=needle.companion)
            asked.append(Question("code_with", text, needle))
    return asked + absent_from(haystack)


def absent_from(haystack: Haystack) -> list[Question]:
    """As many questions about codes that are never shown, half of them but for a letter, and about
    things that are never beside a code."""
    rng = np.random.default_rng((23, haystack.scene.seed))
    shown = [needle.code for needle in haystack.needles]
    companions = {needle.companion for needle in haystack.needles}
    alone = [name for name in sorted(CLASSES) if name not in companions]
    asked = []
    for number, code in enumerate(shown):
        other = near_code(rng, code) if number % 2 else random_code(rng)
        if other not in shown:
            asked.append(Question("when", ask_for("when", code=other), None))
    things = rng.permutation(alone)[: len(shown)]
    asked += [Question("code_with", ask_for("code_with", thing=str(n)), None) for n in things]
    return asked


def middle_pair_s(span_s: tuple[float, float]) -> float:
    """Printed time of the pair nearest to the middle of a span."""
    pair = round((sum(span_s) / 2 * FPS - 0.5) / 2)
    return (4 * pair + 1) / (2 * FPS)


def ask_all(
    model: str, tokens: int, plan: Plan, number: int, folder: Path, *, is_told: bool
) -> tuple[list[tuple[Question, str]], int]:
    """Draw one haystack, ask everything; (question, answer) in order, and the tokens it took."""
    frames = FRAMES[plan.frames]
    spec = ModelSpec(name=model)
    _, counter = load_facts(spec)
    shape = draw_haystack(0, frames.file_px, 9999.0, plan.needles, SHOW_S, frames.sizes)
    text = counter.prefix_tokens() + question_tokens(counter, questions_on(shape))
    pairs = count_pairs(counter, tokens - text, frames.pair_tokens)
    duration_s = 2 * pairs / FPS
    haystack = draw_haystack(
        FIRST_SEED + number, frames.file_px, duration_s, plan.needles, SHOW_S, frames.sizes
    )
    path = folder / f"haystack_{plan.frames}_{tokens}_{number}.mp4"
    if not path.exists():
        options = {"vcodec": "libx264", "crf": 26, "preset": "veryfast"}
        encode_scene(haystack.scene, path, Encoding(fps=FPS, options=options))
    asked = questions_on(haystack)
    longest = counter.pair_tokens(timestamp_text(LONGEST_TIME_S), frames.pair_tokens)
    job: dict[str, Any] = {
        "videos": [str(path)],
        "queries": [
            {"id": f"q{i}", "ask": question.ask, "max_answer_tokens": ANSWER_TOKENS}
            for i, question in enumerate(asked)
        ],
        "model": spec.model_dump(exclude_defaults=True),
        "sampling": {
            "fps": FPS,
            "max_frames": 2 * pairs,
            "pair_tokens": frames.pair_tokens,
            "video_tokens": pairs * longest,
        },
        "cluster": {"executor": "serial", "lookahead_chunks": 1},
        "output": str(folder / f"out_{time.time_ns()}"),
    }
    told = ToldTower(haystack, FPS).encode if is_told else VisionEncoder.encode
    with patch.object(VisionEncoder, "encode", lambda own, rgb: told(own, rgb)):
        summary = run_job(read_job(job, where="benchmark"), Console(quiet=True))
    if summary.failures:
        raise SystemExit(f"{path.name}: {summary.failures}")
    log = open_output(job["output"])
    rows = {row["query_id"]: row for row in read_frame(log, "requests").iter_rows(named=True)}
    (video,) = read_frame(log, "videos").iter_rows(named=True)
    answers = [rows[f"q{i}"]["answer"] for i in range(len(asked))]
    return list(zip(asked, answers, strict=True)), int(video["total_tokens"])


def question_tokens(counter: PromptCounter, asked: list[Question]) -> int:
    queries = [
        QuerySpec(id=f"q{i}", ask=question.ask, max_answer_tokens=ANSWER_TOKENS)
        for i, question in enumerate(asked)
    ]
    built = build_questions(queries, TimeSpan(0, 9999, Fraction(1)))
    return max(counter.question_tokens(question) for question in built)


def run_length(
    model: str, name: str, plan: Plan, folder: Path, *, show: bool, is_told: bool
) -> Tally:
    """All haystacks of one length."""
    tokens = tokens_of(name)
    tally, started = Tally(), time.monotonic()
    for number in range(plan.first, plan.first + plan.clips):
        answers, filled = ask_all(model, tokens, plan, number, folder, is_told=is_told)
        for question, answer in answers:
            if not tally.add(question, answer) and show:
                needle = question.needle
                at = f"{needle.span_s[0]:.1f} {needle.code}" if needle else NONE
                print(f"  {question.ask} {answer!r}, was {at}", flush=True)
        spent = time.monotonic() - started
        print(f"{name}: haystack {number}, {plan.clips} in all, {filled:,} tokens, {spent:.0f} s")
    return tally


def scrambled_ids(self: PromptLayout, text: str, visual_tokens: int) -> list[int]:
    """A pair under another time of as many digits."""
    said = re.fullmatch(r"<(\d+)\.(\d) seconds>", text)
    if said is None:
        raise ValueError(text)
    low = 10 ** (len(said[1]) - 1) if len(said[1]) > 1 else 0
    other = random.Random(text).randrange(low, 10 ** len(said[1]))
    return _TRUE_IDS(self, f"<{other}.{said[2]} seconds>", visual_tokens)


_TRUE_IDS = PromptLayout.pair_ids


def report(name: str, tally: Tally, *, scrambled: bool) -> None:
    """Rates with their intervals, as claims where nothing was scrambled."""
    for asked in tally.asked:
        print(f"{name} {asked:16} {tally.rate(asked)}")
    if tally.off_s:
        off = np.asarray(tally.off_s)
        print(f"{name} times: {(off == 0).mean():.3f} while it shows, worst {off.max():.2f} s off")
        if not scrambled:
            claim(f"needles_{name}_within_a_step", float((off <= 1 / FPS).mean()), 0.99)
    if scrambled:
        claim(f"needles_{name}_scrambled_when", tally.rate("when").value, 0.1, at_most=True)
        return
    for kind in ("when", "code_at", "code_with"):
        claim(f"needles_{name}_{kind}", tally.rate(kind).value, GOALS.get(name, 0.95))
    alarms = [tally.rate(kind) for kind in tally.asked if kind.endswith("_absent")]
    rate = 1 - sum(one.hits for one in alarms) / max(1, sum(one.trials for one in alarms))
    claim(f"needles_{name}_false_alarms", rate, 0.01, at_most=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="nano", help="checkpoint folder or name")
    parser.add_argument("--tokens", action="append", help=f"any of {', '.join(PLANS)}")
    parser.add_argument("--clips", type=int, help="haystacks of each length")
    parser.add_argument("--first", type=int, default=0, help="number of the first haystack")
    parser.add_argument("--needles", type=int, help="codes in each haystack")
    parser.add_argument("--frames", choices=list(FRAMES), help="frame size")
    parser.add_argument("--keep", default="", help="folder for the videos and the rows")
    parser.add_argument("--scrambled", action="store_true", help="the control")
    parser.add_argument("--told", action="store_true", help="the decoder alone")
    parser.add_argument("--show", action="store_true", help="print what was wrong")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.keep or scratch).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        for name in map(str.lower, options.tokens or ["8k", "32k", "128k"]):
            plan = PLANS[name]
            plan = Plan(
                options.clips or plan.clips,
                options.needles or plan.needles,
                options.frames or plan.frames,
                options.first,
            )
            ids = scrambled_ids if options.scrambled else _TRUE_IDS
            with patch.object(PromptLayout, "pair_ids", ids):
                tally = run_length(
                    options.model, name, plan, folder, show=options.show, is_told=options.told
                )
            report(name, tally, scrambled=options.scrambled)


if __name__ == "__main__":
    main()
