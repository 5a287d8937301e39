"""Pictures: what they tell is true, and so is what a tower is told by them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.lettering import ALPHABET, Look, blend, write_code
from recipes.nano.codes import class_codes, ground_code, letter_codes
from recipes.nano.drawn import DrawnAhead
from recipes.nano.seeing.pictures import add_clutter, as_seen, draw_pictures, hard_look
from recipes.nano.seeing.see import draw as draw_batch
from recipes.nano.seeing.see import letter_scores, strayed, wanted_features


@pytest.mark.parametrize("workers", [1, 2])
def test_pictures_drawn_ahead_depend_on_their_step_alone(workers: int) -> None:
    drawing = partial(draw_batch, tokens=24)
    with DrawnAhead(drawing, seed=5, steps=4, workers=workers) as drawn:
        ahead = [drawn.step(number) for number in (1, 2, 3)]
    for number, (pictures, grid) in enumerate(ahead, start=1):
        alone, own_grid = drawing(np.random.default_rng((5, number)), number)
        assert grid == own_grid
        assert torch.equal(pictures.pairs, alone.pairs)
        assert torch.equal(pictures.letters, alone.letters)


def test_what_stands_on_an_edge_may_be_written_beside_it_but_nothing_else() -> None:
    pictures = draw_pictures(40, (4, 6), np.random.default_rng(3))
    wanted = wanted_features(pictures)
    pair, at = (pictures.beside >= 0).nonzero(as_tuple=True)
    assert len(pair) > 20
    assert not pictures.is_told[pair, at].any()
    assert torch.allclose(wanted[pair, at], ground_code())
    theirs = wanted[pair, pictures.beside[pair, at]] - ground_code()
    assert (theirs.norm(dim=-1) > 1).all()
    for share, far in ((0.0, 0.0), (0.6, 0.0), (1.0, 0.0), (-1.0, 1.0), (2.0, 1.0)):
        main = wanted.clone()
        main[pair, at] += share * theirs
        found = strayed(main, wanted, pictures.beside)
        assert torch.allclose(found, far * theirs.square().sum(-1), atol=1e-3)
    main = wanted.clone()
    other = letter_codes()[0, 3]
    main[pair, at] += other
    is_own = (theirs @ other).abs() > 1
    assert torch.allclose(
        strayed(main, wanted, pictures.beside)[~is_own], other.square().sum(), atol=1e-3
    )


def test_letters_things_and_ground_do_not_mix() -> None:
    letters = letter_codes().flatten(0, 1)
    rows = torch.cat([ground_code()[None], class_codes(), letters])
    rows = rows / rows.norm(dim=1, keepdim=True)
    assert torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-5)


def test_pictures_and_what_they_should_give() -> None:
    rng = np.random.default_rng(1)
    pictures = draw_pictures(6, (4, 5), rng)
    assert pictures.pairs.shape == (6, 2, 128, 160, 3)
    home = pictures.letters[..., 0] >= 0
    assert home.any()
    assert pictures.things.any()
    assert pictures.is_told[home].all()
    wanted = wanted_features(pictures)
    scores = letter_scores(wanted)
    assert torch.equal(scores[home].argmax(-1), pictures.letters[home])
    assert scores[~home].abs().max() < 1e-4
    assert scores.shape[-1] == len(ALPHABET)


@pytest.mark.parametrize("has_plate", [True, False])
def test_a_code_written_finer_and_shrunk_looks_like_a_frame_that_is_shrunk(has_plate: bool) -> None:
    look = Look("sans", 1, has_plate=has_plate, ink=(250, 240, 230), plate=(10, 20, 30))
    written = write_code("KXY", look, 60.0)
    frame = np.full((90, 240, 3), 120, dtype=np.float32)
    blend(frame, written, 120, 45)
    small = np.full((30, 80, 3), 120, dtype=np.float32)
    shrunk = as_seen(written, 3.0)
    blend(small, shrunk, 40, 15)
    channels = [Image.fromarray(np.ascontiguousarray(frame[..., i])) for i in range(3)]
    seen = np.stack([own.resize((80, 30), Image.Resampling.BILINEAR) for own in channels], -1)
    assert np.abs(small - seen).mean() < 4
    assert abs(shrunk.letters_x[1] - written.letters_x[1] / 3) < 1e-6
    assert as_seen(written, 1.0) is written


def test_hard_looks_come_more_often_than_in_videos() -> None:
    rng = np.random.default_rng(0)
    looks = [hard_look(rng) for _ in range(2000)]
    assert sum(not look.has_plate for look in looks) / 2000 == pytest.approx(0.61, abs=0.03)
    assert sum(look.weight == 0 for look in looks) / 2000 == pytest.approx(0.25, abs=0.03)


def test_clutter_is_dull_in_both_frames_and_never_passes_for_a_thing() -> None:
    pair = np.full((2, 96, 128, 3), 100, dtype=np.float32)
    add_clutter(pair, np.random.default_rng(2))
    changed = (pair != 100).any(-1)
    assert changed[0].mean() > 0.05
    assert changed[1].mean() == pytest.approx(changed[0].mean(), abs=0.02)
    assert pair.min() >= 17
    assert pair.max() <= 198
