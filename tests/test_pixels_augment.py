"""Augmented views: a pure function of seed, key and view, and each setting does what it says."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.core.views import ViewSpec
from extract.pixels.augment import make_views

STILL = {"rotation": 0.0, "shift": 0.0, "shear": 0.0, "zoom": 0.0, "flip": False}


def only(views: int = 40, seed: int = 0, **moving: float) -> ViewSpec:
    """Views in which nothing but what is named moves."""
    return ViewSpec(views, seed, **{**STILL, **moving})  # type: ignore[arg-type]


def noise(height: int = 24, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ball(x: float, y: float, height: int = 60, width: int = 80) -> np.ndarray:
    """A white disc on black; its centre is told by the mean of its pixels."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    inside = (columns - x) ** 2 + (rows - y) ** 2 < 16
    return np.repeat(inside[..., None] * np.uint8(255), 3, axis=2)


def centre(pixels: np.ndarray) -> tuple[float, float]:
    weights = pixels[..., 0].astype(float)
    rows, columns = np.mgrid[: weights.shape[0], : weights.shape[1]] + 0.5
    return float((columns * weights).sum() / weights.sum()), float(
        (rows * weights).sum() / weights.sum()
    )


def correlation(pairs: np.ndarray) -> float:
    return abs(float(np.asarray(np.corrcoef(pairs.T))[0, 1]))


@given(
    key=st.text(max_size=8),
    seed=st.integers(0, 2**32 - 1),
    views=st.integers(1, 4),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
)
@settings(max_examples=60, deadline=None)
def test_views_depend_on_seed_key_and_number_alone(
    key: str, seed: int, views: int, height: int, width: int
) -> None:
    pixels, spec = noise(height, width), ViewSpec(views, seed)
    made = make_views(pixels, key, spec)
    assert len(made) == views
    assert all(view.shape == pixels.shape and view.dtype == np.uint8 for view in made)
    make_views(pixels[::-1], "another image in between", spec)
    more = make_views(pixels, key, replace(spec, views=views + 3))
    assert all(np.array_equal(a, b) for a, b in zip(made, more, strict=False))


def test_another_seed_key_or_number_is_another_view() -> None:
    pixels = noise()
    made = [
        make_views(pixels, key, ViewSpec(3, seed))[view]
        for key in ("a", "b")
        for seed in (0, 1)
        for view in range(3)
    ]
    assert len({view.tobytes() for view in made}) == len(made)


def test_views_are_the_same_on_every_machine_and_release() -> None:
    ramp = np.add.outer(np.arange(40) * 3, np.arange(40) * 2)[..., None].repeat(3, axis=2)
    made = make_views(ramp.astype(np.uint8), "cats/1.jpg", ViewSpec(2, 7))
    # As they were when this was written: stored views are worth nothing if others replace them.
    expected = (20, 48, 102, 11, 65, 119, 35, 82, 135), (65, 47, 27, 109, 89, 70, 152, 133, 113)
    for view, values in zip(made, expected, strict=True):
        np.testing.assert_allclose(view[5:40:15, 5:40:15, 0].ravel(), values, atol=1)


def test_without_moving_a_view_is_the_plain_image_or_its_mirror() -> None:
    pixels = noise()
    plain, mirrored = 0, 0
    for view in make_views(pixels, "a", only(60, flip=True)):
        plain += np.array_equal(view, pixels)
        mirrored += np.array_equal(view, pixels[:, ::-1])
    assert plain + mirrored == 60
    assert 15 < plain < 45


def test_rotation_turns_about_the_middle_by_degrees() -> None:
    angles = []
    for view in make_views(ball(60, 30), "a", only(200, rotation=40)):
        x, y = centre(view)
        assert np.hypot(x - 40, y - 30) == pytest.approx(20, abs=0.3)
        angles.append(np.degrees(np.arctan2(y - 30, x - 40)))
    assert -41 < min(angles) < -35
    assert 35 < max(angles) < 41


def test_shift_is_a_share_of_width_and_of_height() -> None:
    moved = np.array([centre(view) for view in make_views(ball(40, 30), "a", only(200, shift=0.2))])
    offsets = (moved - [40, 30]) / [80, 60]
    assert (np.abs(offsets) < 0.205).all()
    assert (offsets.min(axis=0) < -0.17).all()
    assert (offsets.max(axis=0) > 0.17).all()
    # Across and down are drawn apart.
    assert correlation(offsets) < 0.3


def test_shear_moves_columns_by_a_share_of_their_distance_from_the_middle() -> None:
    moved = np.array([centre(view) for view in make_views(ball(60, 30), "a", only(200, shear=0.2))])
    np.testing.assert_allclose(moved[:, 0], 60, atol=0.2)
    assert np.abs(moved[:, 1] - 30).max() == pytest.approx(4, abs=0.3)


def test_zoom_changes_width_and_height_apart() -> None:
    moved = np.array([centre(view) for view in make_views(ball(60, 45), "a", only(300, zoom=0.2))])
    scale = (moved - [40, 30]) / [20, 15]
    assert (np.abs(scale.min(axis=0) - 1 / 1.2) < 0.03).all()
    assert (np.abs(scale.max(axis=0) - 1 / 0.8) < 0.03).all()
    assert correlation(scale) < 0.3


def test_beyond_the_edge_the_nearest_pixel_repeats() -> None:
    even = np.full((20, 30, 3), 200, np.uint8)
    for view in make_views(even, "a", ViewSpec(50, rotation=180, shift=1, zoom=0.9)):
        assert (view == 200).all()
