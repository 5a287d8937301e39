"""Step 5: learn to find. The decoder learns to bind things to times, to match them with a question
and to read the times out, on lessons that grow as it gets them right.

Left to itself it sits on a plateau for hours: every part waits for the others. So, while it learns,
a few heads are told where to look and linear probes ask what each token should know by then. Both
are thrown away; the checkpoint holds an ordinary decoder.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration

from recipes.nano import tokenizer as tokenizer_step
from recipes.nano.codes import class_codes, ground_code
from recipes.nano.courses import MAX_EVENTS, Course, draw_course
from recipes.nano.features import KeptLessons, kept_features, load_kept
from recipes.nano.lessons import LessonMaker
from recipes.nano.network import Batch, in_bfloat16, new_model, run_layers
from recipes.nano.optimizers import Optimizers
from recipes.nano.pictures import CLASSES
from recipes.nano.shape import CHECKPOINT, DEEPSTACK, HIDDEN, RUNS
from recipes.nano.targets import NUM_STATES, Looks, SetLooks, Targets

STAGES = ((4, 16), (8, 32), (12, 64), (16, 120), (20, 240), (24, 350))
"""Patch pairs per lesson, from–to; the next stage begins when this one is right often enough."""
ADVANCE_AT = (0.8, 0.88, 0.92, 0.94, 0.95)
QUESTIONS = 6
CourseDraw = Callable[[np.random.Generator, int, int], tuple[list[Course], tuple[int, int]]]

Source = tuple[float, LessonMaker, CourseDraw]


class Probes(nn.Module):
    """What tokens should know after a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.visible = nn.Linear(HIDDEN, len(CLASSES))
        self.simple = nn.Linear(HIDDEN, 2 * len(CLASSES))
        self.known = nn.Linear(HIDDEN, 2 * len(CLASSES))
        self.counts = nn.Linear(HIDDEN, 2 * MAX_EVENTS)
        self.clocks = nn.ModuleList(nn.Linear(HIDDEN, n) for n in (100, 100, 10))
        self.asked = nn.Linear(HIDDEN, len(CLASSES))
        self.states = nn.Linear(HIDDEN, NUM_STATES)
        for head in (self.visible, self.simple, self.known):
            nn.init.constant_(head.bias, -4.0)

    def losses(self, layers: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """From hidden states (B, N, hidden) after each layer."""
        rows = torch.arange(len(layers[0]))[:, None]
        pairs = [layer[rows, targets.pair_at].float() for layer in layers[:3]]
        free = layers[2][rows, targets.free_at].float()
        changes = targets.changes
        changes = changes.unflatten(-1, (len(CLASSES), 2, -1))
        simple, counts = changes.amax(-1).flatten(-2), changes.amax(-3).flatten(-2)
        clocks = [
            F.cross_entropy(head(pairs[1]).flatten(0, 1), targets.clocks[..., i].flatten())
            for i, head in enumerate(self.clocks)
        ]
        return {
            "seen": _set_loss(self.visible(pairs[0]), targets.visible)
            + _set_loss(self.visible(pairs[1]), targets.visible),
            "simple": _set_loss(self.simple(pairs[1]), simple),
            "known": _set_loss(self.known(pairs[2]), simple),
            "counts": _set_loss(self.counts(pairs[2]), counts),
            "clocks": torch.stack(clocks).sum(),
            "asked": F.cross_entropy(self.asked(free).flatten(0, 1), targets.asked.flatten()),
            "states": F.cross_entropy(self.states(free).flatten(0, 1), targets.states.flatten()),
        }


def _set_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(-1).mean()


_PROBE_WEIGHTS = {
    "seen": 0.1,
    "simple": 0.15,
    "known": 0.1,
    "counts": 0.4,
    "clocks": 0.1,
    "asked": 0.2,
    "states": 0.2,
}


def look_losses(
    queries_keys: list[tuple[Tensor, Tensor]],
    batch: Batch,
    looks: list[Looks],
    rng: np.random.Generator,
    most_rows: int = 64,
) -> Tensor:
    """−log of the attention that each told head gives to where it should look, per rule."""
    size, total = batch.ids.shape
    columns, which = torch.arange(total), torch.arange(size)[:, None]
    losses = []
    for look in looks:
        at, low, high = look.at, look.low, look.high
        if at.shape[1] > most_rows:
            some = torch.from_numpy(rng.choice(at.shape[1], most_rows, replace=False))
            at, low, high = at[:, some], low[:, some], high[:, some]
        query, key = queries_keys[look.layer]
        scores = query[which, look.head, at].float() @ key[:, look.head].float().mT * 0.125
        if int(at[0, 0]) < batch.video_len:
            open_ = columns <= at[..., None]
        else:
            open_ = batch.question_mask[which, 0, at - batch.video_len]
        scores = scores.masked_fill(~open_, -1e9)
        inside = (columns >= low[..., None]) & (columns < high[..., None])
        hit = scores.masked_fill(~inside, -1e9).logsumexp(-1)
        losses.append((scores.logsumexp(-1) - hit).mean())
    return torch.stack(losses)


def set_look_losses(
    queries_keys: list[tuple[Tensor, Tensor]],
    looks: list[SetLooks],
    rng: np.random.Generator,
    most_rows: int = 64,
) -> Tensor:
    """How far told heads are from sharing their look evenly, per rule."""
    losses = []
    for look in looks:
        at, members = look.at, look.members
        if at.shape[1] > most_rows:
            # Rows with something to share first, then others.
            order = np.argsort(-(members >= 0).sum((0, 2)).numpy() - rng.random(at.shape[1]))
            some = torch.from_numpy(order[:most_rows].copy())
            at, members = at[:, some], members[:, some]
        query, key = queries_keys[look.layer]
        which = torch.arange(len(at))[:, None]
        scores = query[which, look.head, at].float() @ key[:, look.head].float().mT * 0.125
        shut = torch.arange(scores.shape[-1]) > at[..., None]
        logs = scores.masked_fill(shut, -1e9).log_softmax(-1)
        real = (members >= 0).float()
        count = real.sum(-1)
        told = (logs.gather(2, members.clamp_min(0)) * real).sum(-1) / count
        weight = 1 + 3 * (count > 1).float()
        losses.append((-(told + count.log()) * weight).mean())
    return torch.stack(losses)


def worded_features(
    rng: np.random.Generator, courses: list[Course], grid: tuple[int, int]
) -> list[Tensor]:
    """Vectors with noise in place of pictures: what a perfect tower might give."""
    codes, tokens = class_codes(), grid[0] * grid[1]
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
    out = []
    for course in courses:
        subsets, pairs = course.subsets(), len(course.seconds)
        main = torch.randn(pairs, tokens, HIDDEN, generator=generator) * 0.08 + ground_code()
        places = rng.random((pairs, tokens)).argsort(1)
        strength = torch.from_numpy(rng.uniform(0.5, 1.0, (pairs, len(course.classes)))).float()
        for member, number in enumerate(course.classes):
            shown = np.flatnonzero(subsets >> member & 1)
            place = torch.from_numpy(places[shown, member])
            main[shown, place] += codes[number] * strength[shown, member, None]
            near = torch.from_numpy(rng.integers(0, tokens, len(shown)))
            main[shown, near] += codes[number] * (1 - strength[shown, member, None])
        out.append(main.flatten(0, 1))
    stack = torch.cat(out)
    return [stack, *(torch.randn(stack.shape, generator=generator) * 0.1 for _ in DEEPSTACK)]


def worded_courses(
    rng: np.random.Generator, pairs: int, budget: int
) -> tuple[list[Course], tuple[int, int]]:
    """As many courses as fit `budget` tokens, mostly on small frames."""
    grids = [g for g in ((2, 2), (2, 3), (2, 4), (3, 4)) if pairs * (g[0] * g[1] + 8) < 4500]
    grid = grids[int(rng.integers(len(grids)))] if rng.uniform() < 0.5 else grids[0]
    length = pairs * (grid[0] * grid[1] + 8) + QUESTIONS * 32
    return [draw_course(rng, pairs) for _ in range(max(1, min(48, budget // length)))], grid


@dataclass(slots=True)
class Trainer:
    """Model, probes and optimiser with what is needed to go on after a stop."""

    model: Qwen3VLForConditionalGeneration
    probes: Probes
    optimizer: Optimizers
    step: int = 0
    stage: int = 0
    score: float = 0.0
    spent_s: float = 0.0

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "probes": self.probes.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "numbers": (self.step, self.stage, self.score, self.spent_s),
        }
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def load(self, path: Path, *, with_optimizer: bool = True) -> None:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.probes.load_state_dict(state["probes"], strict=False)
        if with_optimizer:
            self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.stage, self.score, self.spent_s = state["numbers"]


def new_trainer(seed: int, lr: float) -> Trainer:
    """A decoder to train beside a vision tower that is left as it is."""
    model = new_model(seed)
    model.model.visual.requires_grad_(False)
    probes = Probes()
    own = [p for p in model.model.language_model.layers.parameters() if p.requires_grad]
    rest = [p for p in own if p.ndim < 2] + list(probes.parameters())
    rest.append(model.model.language_model.embed_tokens.weight)
    rest.append(model.model.language_model.norm.weight)
    optimizer = Optimizers([p for p in own if p.ndim == 2], rest, lr)
    return Trainer(model, probes, optimizer)


def answer_scores(logits: Tensor, picked: Tensor, targets: Targets) -> tuple[float, float]:
    """(answers right in every free token, free tokens right), teacher-forced."""
    free = targets.weights[picked] > 0.5
    wrong = (logits.argmax(-1) != targets.labels[picked]) & free
    size, count = len(targets.labels), int(targets.answer_of.max()) + 1
    names = (torch.arange(size)[:, None] * count + targets.answer_of)[picked]
    broken = torch.zeros(size * count, dtype=torch.bool)
    broken[names[wrong]] = True
    return float((~broken).float().mean()), float(1 - wrong[free].float().mean())


def lesson_loss(
    trainer: Trainer, batch: Batch, targets: Targets, rng: np.random.Generator, aux: float
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one batch and what to print of it."""
    watched: list[tuple[Tensor, Tensor]] = []
    with in_bfloat16(batch.ids.device):
        layers = run_layers(trainer.model, batch, watched)
    picked = targets.labels >= 0
    embed = trainer.model.model.language_model.embed_tokens.weight
    logits = F.linear(layers[-1][picked].float(), embed)
    weights = targets.weights[picked]
    ce = F.cross_entropy(logits, targets.labels[picked], reduction="none")
    answer = (ce * weights).sum() / weights.sum()
    probed = trainer.probes.losses(layers, targets)
    looks = look_losses(watched, batch, targets.looks, rng)
    looks = torch.cat([looks, set_look_losses(watched, targets.set_looks, rng)])
    helped = sum(_PROBE_WEIGHTS[name] * value for name, value in probed.items())
    loss = answer + aux * (torch.as_tensor(helped) + 0.15 * looks.sum())
    exact, tokens = answer_scores(logits.detach(), picked, targets)
    told = {"answer": float(answer.detach()), "exact": exact, "tokens": tokens}
    told |= {name: float(value.detach()) for name, value in probed.items()}
    told |= {f"look{i}": v for i, v in enumerate(looks.detach().tolist())}
    return loss, told


def train_step(
    trainer: Trainer,
    sources: list[Source],
    rng: np.random.Generator,
    options: argparse.Namespace,
) -> dict[str, float]:
    """One batch; returns what to print."""
    low, high = STAGES[trainer.stage]
    if trainer.stage and rng.uniform() < 0.4:  # Old lengths stay known; the shortest is one pair.
        low, high = STAGES[int(rng.integers(trainer.stage))]
        low = 1 if rng.uniform() < 0.1 else low
    pairs = int(np.exp(rng.uniform(np.log(low), np.log(high + 1))))
    odds = np.asarray([share for share, _, _ in sources])
    _, maker, courses = sources[int(rng.choice(len(sources), p=odds / odds.sum()))]
    drawn, grid = courses(rng, pairs, options.tokens)
    batch, targets = maker.draw(rng, drawn, grid, QUESTIONS)
    loss, told = lesson_loss(trainer, batch, targets, rng, options.aux)
    trainer.optimizer.step(loss)
    return told


def learning_rate(peak: float, step: int, share: float, decline: float) -> float:
    """Short warm-up, plateau, straight decline over the last `decline` of the time."""
    return peak * min(1.0, (step + 1) / 50) * min(1.0, max(0.02, (1 - share) / decline))


def train(trainer: Trainer, sources: list[Source], options: argparse.Namespace) -> None:
    """Train until the minutes are spent, saving on the way."""
    rng = np.random.default_rng((options.seed, trainer.step))
    started = last_save = time.monotonic()
    before_s = trainer.spent_s
    mean: dict[str, float] = {}
    while trainer.spent_s < options.minutes * 60:
        trainer.spent_s = before_s + time.monotonic() - started
        share = trainer.spent_s / (options.minutes * 60)
        trainer.optimizer.set_lr(learning_rate(options.lr, trainer.step, share, options.decline))
        told = train_step(trainer, sources, rng, options)
        mean = {k: 0.95 * mean.get(k, v) + 0.05 * v for k, v in told.items()}
        trainer.score = mean["exact"]
        trainer.step += 1
        if trainer.step % 25 == 0:
            numbers = " ".join(f"{k} {v:.3f}" for k, v in mean.items())
            print(
                f"step {trainer.step} stage {trainer.stage} {numbers} {trainer.spent_s:.0f} s",
                flush=True,
            )
        if trainer.stage < len(ADVANCE_AT) and trainer.score > ADVANCE_AT[trainer.stage]:
            trainer.stage += 1
            mean["exact"] = 0.5
        if time.monotonic() - last_save > 30:
            trainer.save(RUNS / options.name)
            last_save = time.monotonic()
    trainer.save(RUNS / options.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--tokens", type=int, default=6000, help="tokens per batch")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--decline", type=float, default=0.3)
    parser.add_argument("--aux", type=float, default=1.0, help="weight of probes and looks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", default="", help="kept features to learn from; none: words")
    parser.add_argument("--worded-share", type=float, default=1.0, help="against 1 of kept ones")
    parser.add_argument("--clip-share", type=float, default=0.6)
    parser.add_argument("--vision", default="", help="run whose tower goes into the result")
    parser.add_argument("--start", default="", help="earlier run to begin from")
    parser.add_argument("--keep-optimizer", action="store_true")
    parser.add_argument("--stage", type=int, default=0, help="first length of lessons")
    parser.add_argument("--name", default="worded.pt")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer_step.save(CHECKPOINT)
    tokenizer = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    sources: list[Source] = [
        (options.worded_share, LessonMaker(worded_features, tokenizer), worded_courses)
    ]
    if options.kept:
        lessons = KeptLessons(*load_kept(RUNS / options.kept), options.clip_share)
        sources.append((1.0, LessonMaker(kept_features, tokenizer), lessons.courses))
    trainer = new_trainer(options.seed, options.lr)
    if (RUNS / options.name).exists():
        trainer.load(RUNS / options.name)
        print(f"going on from step {trainer.step}", flush=True)
    elif options.start:
        trainer.load(RUNS / options.start, with_optimizer=options.keep_optimizer)
        trainer.step, trainer.spent_s, trainer.stage = 0, 0.0, options.stage
    if options.vision:
        seeing = torch.load(RUNS / options.vision, weights_only=True)
        own = {k: v for k, v in seeing.items() if k.startswith("model.visual.")}
        trainer.model.load_state_dict(own, strict=False)
    train(trainer, sources, options)


if __name__ == "__main__":
    main()
