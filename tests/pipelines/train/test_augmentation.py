"""Augmentation: alike within an example, independent between examples, repeatable."""

import numpy as np

from pipelines.train.augmentation import MAX_SHIFT, augmented, recoloured, shifted
from rigface.types import Conditions, Example


def example(count: int = 3, side: int = 32) -> Example:
    pictures = np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    code = np.zeros((count, 4), np.float32)
    return Example(Conditions(pictures, pictures.copy(), pictures.copy(), code), pictures.copy())


def test_all_pictures_of_an_example_change_alike():
    out, moved = augmented(example(), (1, 2), regions=(marks := example().target[..., 0]))
    for name in ("background", "render"):
        np.testing.assert_array_equal(getattr(out.conditions, name), out.conditions.reference)
    np.testing.assert_array_equal(out.target, out.conditions.reference)
    alone, none = augmented(example(), (1, 2))
    np.testing.assert_array_equal(alone.target, out.target)
    assert none is None
    places = [np.argwhere(a[4:-4, 4:-4] == b[16, 16]) for a, b in zip(moved, marks)]
    assert all(len(found) for found in places), "the centre is still somewhere, uncoloured"


def test_examples_change_independently_and_inputs_stay():
    given = example()
    given.conditions.reference[:] = given.conditions.reference[0]
    before = given.conditions.reference.copy()
    out = augmented(given, (1, 2))[0].conditions.reference
    assert (out[0] != out[1]).mean() > 0.5
    np.testing.assert_array_equal(given.conditions.reference, before)


def test_same_seed_gives_same_augmentation():
    one, again, other = (augmented(example(), seed)[0].target for seed in ((1, 2), (1, 2), (1, 3)))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_shift_moves_all_pixels_alike():
    side = 50
    place = np.stack([*np.mgrid[:side, :side], np.zeros((side, side), int)], axis=-1).astype(np.uint8)
    seen = set()
    for k in range(20):
        moved = shifted(place, np.random.default_rng(k)).astype(int)
        by = moved[side // 2, side // 2, :2] - side // 2
        assert np.abs(by).max() <= MAX_SHIFT * side
        inner = slice(5, -5)
        np.testing.assert_array_equal(moved[inner, inner, :2], place[inner, inner, :2].astype(int) + by)
        seen.add(tuple(by))
    assert len(seen) > 5


def test_colours_change_smoothly_and_keep_their_order():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    for k in range(20):
        out = recoloured(ramp, np.random.default_rng(k)).astype(int)
        assert (np.diff(out[0], axis=0) >= 0).all()
        assert out[0, 0].max() == 0
        assert 60 < out[0, 127].mean() < 220
