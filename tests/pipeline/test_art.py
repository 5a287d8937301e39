"""Needles as pictures: the same every time, wholly inside the frame, and refused in a sentence."""

from __future__ import annotations

import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.art import Art, CardArt, ClipArt, CodeArt, FootageArt, PictureArt
from pipeline.footage import letterboxed_frames, pts_at_rate
from pipeline.probe import probe
from pipeline.scenes import COLOURS, SHAPES
from sample_media.generate import HERE
from schemas.errors import InputError
from schemas.media import RgbArray, VideoSource

MADE = (CodeArt, CardArt, ClipArt)
FORMS = (
    (256, 192, (40.0, 54.0), (52.0, 72.0)),
    (384, 384, (20.0, 27.0), (26.0, 36.0)),
)
GREY = 127
FPS = 8.0


def plain(width: int = 256, height: int = 192) -> RgbArray:
    return np.full((height, width, 3), GREY, np.uint8)


def drawn(kind: type[Art], seed: int, thing: str = "red star", form: int = 0) -> Art:
    _, _, letters, things = FORMS[form]
    return kind("KXR", thing, seed, letters, things)  # type: ignore[call-arg]


def changed(before: RgbArray, after: RgbArray) -> npt.NDArray[np.bool_]:
    return np.asarray((before != after).any(-1))


def box_of(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom), half-open."""
    rows, cols = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1


@pytest.mark.parametrize("kind", MADE)
def test_the_same_art_paints_the_same_pixels_and_leaves_the_frame_alone(kind: type[Art]) -> None:
    art, under = drawn(kind, 4), plain()
    painted = art.paint(under, 5, 32, FPS)
    assert (under == GREY).all()
    assert painted.shape == under.shape
    assert painted.dtype == np.uint8
    again = pickle.loads(pickle.dumps(art))
    assert again == art
    assert np.array_equal(again.paint(under, 5, 32, FPS), painted)
    assert not np.array_equal(drawn(kind, 5).paint(under, 5, 32, FPS), painted)


@pytest.mark.parametrize("kind", MADE)
def test_the_name_tells_what_is_shown(kind: type[Art]) -> None:
    assert repr(drawn(kind, 7)).startswith(f"{kind.__name__}(code='KXR', thing='red star', seed=7")


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    form=st.sampled_from(range(len(FORMS))),
    colour=st.sampled_from(sorted(set(COLOURS) - {"white"})),
    shape=st.sampled_from(SHAPES),
    k=st.integers(0, 31),
)
def test_code_and_thing_lie_apart_inside_the_frame(
    seed: int, form: int, colour: str, shape: str, k: int
) -> None:
    width, height, letters, things = FORMS[form]
    under = plain(width, height)
    both = CodeArt("MXU", f"{colour} {shape}", seed, letters, things).paint(under, k, 32, FPS)
    mask = changed(under, both)
    left, top, right, bottom = box_of(mask)
    assert left >= 1
    assert top >= 1
    assert right < width
    assert bottom < height
    thing = box_of(near(both, colour))
    assert things[0] * 0.8 - 2 <= max(side(thing)) <= things[1] * 1.1 + 2
    # Smooth edges reach a pixel or two beyond the pure colour.
    mask[thing[1] - 2 : thing[3] + 2, thing[0] - 2 : thing[2] + 2] = False
    code = box_of(mask)
    assert letters[0] <= side(code)[1] <= letters[1] * 1.8
    apart_x = max(code[0], thing[0]) >= min(code[2], thing[2])
    apart_y = max(code[1], thing[1]) >= min(code[3], thing[3])
    assert apart_x or apart_y


def near(frame: RgbArray, colour: str) -> npt.NDArray[np.bool_]:
    return np.asarray(np.abs(frame.astype(int) - np.array(COLOURS[colour])).max(-1) < 3)


def side(box: tuple[int, int, int, int]) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def test_a_code_alone_has_nothing_beside_it() -> None:
    under = plain()
    mask = changed(under, drawn(CodeArt, 3, thing="").paint(under, 0, 8, FPS))
    wide, tall = side(box_of(mask))
    assert 40 <= tall <= 54 * 1.8
    assert wide <= 4 * 54 + 8


def test_letters_shrink_where_the_frame_is_small() -> None:
    under = plain(64, 48)
    mask = changed(under, drawn(CodeArt, 3).paint(under, 0, 8, FPS))
    left, top, right, bottom = box_of(mask)
    assert (left >= 1, top >= 1, right < 64, bottom < 48) == (True,) * 4
    assert mask.sum() > 100


def test_a_card_stands_still_and_hides_the_frame() -> None:
    art = drawn(CardArt, 2)
    first = art.paint(plain(), 0, 32, FPS)
    assert np.array_equal(first, art.paint(np.zeros_like(plain()), 31, 32, FPS))


@pytest.mark.parametrize("seed", range(4))
def test_the_thing_of_a_clip_travels_and_the_code_stays(seed: int) -> None:
    frames = [drawn(ClipArt, seed).paint(plain(), k, 32, FPS) for k in (0, 8, 16, 24, 31)]
    places = [np.nonzero(near(frame, "red"))[1].mean() for frame in (frames[0], frames[-1])]
    assert abs(places[1] - places[0]) >= 0.25 * 256
    # Grain moves everywhere but under the code.
    still = np.all([(frame == frames[0]).all(-1) for frame in frames], axis=0)
    wide, tall = side(box_of(still))
    assert 40 * 0.9 <= tall <= 54 * 1.8
    assert 40 <= wide <= 4 * 54 + 8
    assert 500 < still.sum() < 0.7 * still.size
    values, counts = np.unique(frames[0][still], axis=0, return_counts=True)
    inks = [(frame == values[counts.argmax()]).all(-1) for frame in frames]
    assert max(int((ink ^ inks[0]).sum()) for ink in inks) < 5


def test_a_picture_is_letterboxed(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.new("RGB", (200, 50), (10, 200, 30)).save(path)
    painted = PictureArt(str(path)).paint(plain(100, 100), 0, 8, FPS)
    assert (painted[38:62] == (10, 200, 30)).all()
    assert (painted[:37] == 0).all()
    assert (painted[63:] == 0).all()


@pytest.mark.parametrize("art", [PictureArt, FootageArt])
def test_what_cannot_be_read_is_named(art: type[PictureArt | FootageArt], tmp_path: Path) -> None:
    broken = tmp_path / "broken.bin"
    broken.write_bytes(b"neither a picture nor a video")
    for path in (broken, tmp_path / "nowhere.png"):
        with pytest.raises(InputError, match=path.name):
            art(str(path)).paint(plain(), 0, 8, FPS)


def test_a_torn_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "torn.png"
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"torn\.png is not a picture that can be read"):
        PictureArt(str(path)).paint(plain(), 0, 8, FPS)


def test_a_clip_runs_at_its_own_speed_and_its_last_frame_stays() -> None:
    path = str(HERE / "odd_frames.avi")
    index = probe(VideoSource(path, path))
    pts = pts_at_rate(index, Fraction(1))
    own = list(letterboxed_frames(index, pts, 64, 48))
    art, num = FootageArt(path), len(pts) + 3
    for k in (0, 7, len(pts) - 1):
        assert np.array_equal(art.paint(plain(64, 48), k, num, 1.0), own[k])
    assert np.array_equal(art.paint(plain(64, 48), num - 1, num, 1.0), own[-1])
    assert not np.array_equal(own[0], own[-1])
