"""Augmented views, read off pictures whose pixels say where they come from, and held to Pillow and plain numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vision.training.augment import LUMA_RGB, Augmentation
from vision.training.features import SOURCE_ROOM

HEIGHT, WIDTH = 160, 240  # of the pictures that are cut


def coordinates(height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """A picture in which red is a pixel's column and green its row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8)


def clouds(height: int, width: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(5).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def view(augmentation: Augmentation, seed: int, image: NDArray[np.uint8], *shape: int) -> NDArray[np.uint8]:
    height, width = shape or image.shape[:2]
    return augmentation.views(image, height, width, [np.random.default_rng(seed)])[0]


class Seen:
    """What a view shows, fitted to its coordinates: the map from the result, measured from its centre, to the image."""

    def __init__(self, augmentation: Augmentation, seed: int, height: int = 80, width: int = 120) -> None:
        picture = view(augmentation, seed, coordinates(), height, width).astype(np.float64)
        y, x = np.mgrid[:height, :width]
        found = picture[..., 0], picture[..., 1]
        inside = (found[0] > 0) & (found[0] < WIDTH - 1) & (found[1] > 0) & (found[1] < HEIGHT - 1)
        assert inside.sum() > 100
        places = np.stack([x - (width - 1) / 2, y - (height - 1) / 2, np.ones_like(x)], axis=2)[inside]
        fitted = np.linalg.lstsq(places, picture[inside][:, :2], rcond=None)[0]
        self.linear: NDArray[np.float64] = fitted[:2].T
        # As parts of the image's sides, from its centre.
        self.centre = (fitted[2] - [(WIDTH - 1) / 2, (HEIGHT - 1) / 2]) / [WIDTH, HEIGHT]
        self.sides = np.hypot(*self.linear) * [width, height] / [WIDTH, HEIGHT]
        self.area = float(self.sides.prod())
        self.mirrored = bool(np.linalg.det(self.linear) < 0)
        self.angle = float(np.degrees(np.arctan2(self.linear[1, 1], self.linear[0, 1]))) - 90


def draws(augmentation: Augmentation, count: int = 150) -> list[Seen]:
    return [Seen(augmentation, seed) for seed in range(count)]


@pytest.mark.parametrize("shape", [(32, 32), (17, 40), (1, 1)])
def test_settings_that_change_nothing_return_the_very_pixels(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert not Augmentation()
    np.testing.assert_array_equal(view(Augmentation(), 3, image), image)


def test_half_of_the_images_are_mirrored_exactly() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 25, 3), dtype=np.uint8)
    mirrored = 0
    for seed in range(200):
        found = view(Augmentation(flip=True), seed, image)
        turned = bool((found == image[:, ::-1]).all())
        assert turned or (found == image).all()
        mirrored += turned
    assert 75 <= mirrored <= 125  # 3.5 standard deviations


def test_a_crop_shows_a_part_of_the_stated_area_and_shape_that_lies_within_the_image() -> None:
    seen = draws(Augmentation(crop_area=0.2, crop_ratio=4 / 3))

    areas = np.array([one.area for one in seen])
    assert 0.195 < areas.min() < 0.25
    assert 0.9 < areas.max() < 1.01
    assert abs(areas.mean() - 0.6) < 0.06  # drawn evenly from 0.2 to 1
    ratios = np.array([one.sides[0] / one.sides[1] for one in seen])
    assert 3 / 4 - 0.01 < ratios.min() < 0.8
    assert 1.25 < ratios.max() < 4 / 3 + 0.01
    assert abs(np.log(ratios).mean()) < 0.05
    low, high = (np.array([one.centre + sign * one.sides / 2 for one in seen]) for sign in (-1, 1))
    assert low.min() > -0.51
    assert high.max() < 0.51
    assert low.min(axis=0).max() < -0.48  # crops reach both ends of both sides
    assert high.max(axis=0).min() > 0.48
    assert not any(one.mirrored for one in seen)
    assert max(abs(one.angle) for one in seen) < 0.5


def test_a_crop_never_shows_less_than_the_smallest_area_where_its_shape_does_not_fit() -> None:
    seen = draws(Augmentation(crop_area=0.9, crop_ratio=2))
    assert min(one.area for one in seen) > 0.895
    assert max(one.sides.max() for one in seen) < 1.01


def test_a_crop_may_lie_anywhere() -> None:
    seen = draws(Augmentation(crop_area=0.25), 100)
    places = np.array([one.centre / (1 - one.sides) for one in seen if one.area < 0.8])  # -0.5 to 0.5, drawn evenly
    assert abs(places.mean()) < 0.08
    assert abs(places.std() - 12**-0.5) < 0.05


def test_turns_shifts_and_sizes_stay_within_their_limits_and_reach_them() -> None:
    angles = np.array([one.angle for one in draws(Augmentation(rotate_degrees=20))])
    assert -20.1 < angles.min() < -18
    assert 18 < angles.max() < 20.1

    shifts = np.array([one.centre for one in draws(Augmentation(shift=0.25))])
    assert np.abs(shifts).max() < 0.251
    assert (shifts.min(axis=0) < -0.23).all()
    assert (shifts.max(axis=0) > 0.23).all()

    sizes = np.array([1 / one.sides for one in draws(Augmentation(zoom=0.3))])
    np.testing.assert_allclose(sizes[:, 0], sizes[:, 1], rtol=0.01)
    assert 0.69 < sizes.min() < 0.72
    assert 1.28 < sizes.max() < 1.31


@pytest.mark.parametrize("seed", range(6))
def test_geometry_adds_up_and_a_mirror_image_shows_the_same_part(seed: int) -> None:
    """One setting being on leaves the draws of the others: the whole is what the parts are one by one."""
    crop, turn, shift, zoom = (
        Augmentation(crop_area=0.4, crop_ratio=1.3),
        Augmentation(rotate_degrees=15),
        Augmentation(shift=0.05),
        Augmentation(zoom=0.1),
    )
    both = replace(crop, rotate_degrees=15, shift=0.05, zoom=0.1)
    cropped, turned, shifted, zoomed = (Seen(one, seed) for one in (crop, turn, shift, zoom))

    whole = Seen(both, seed)

    assert whole.angle == pytest.approx(turned.angle, abs=0.3)
    np.testing.assert_allclose(whole.sides, cropped.sides * zoomed.sides, rtol=0.01)
    np.testing.assert_allclose(whole.centre, cropped.centre + shifted.centre, atol=0.006)  # a pixel in 160
    flipped = Seen(replace(both, flip=True), seed)
    np.testing.assert_allclose(flipped.centre, whole.centre, atol=0.006)
    towards = -1 if flipped.mirrored else 1
    np.testing.assert_allclose(flipped.linear, whole.linear * [towards, 1], atol=0.01)


@pytest.mark.parametrize(
    "other", [{"flip": True}, {"brightness": 0.4}, {"contrast": 0.4}, {"saturation": 0.4}, {"zoom": 0.1}]
)
def test_one_setting_does_not_move_the_draws_of_another_nor_those_of_the_next_image(other: dict[str, Any]) -> None:
    images = np.repeat(coordinates()[None], 3, axis=0)
    turn = Augmentation(rotate_degrees=30)

    generators = np.random.default_rng(4), np.random.default_rng(4)
    plain, changed = turn(images, generators[0]), replace(turn, **other)(images, generators[1])

    assert (plain != changed).any()
    assert generators[0].random() == generators[1].random()


@pytest.mark.parametrize("seed", range(4))
def test_a_turned_picture_is_what_pillow_makes_of_it(seed: int) -> None:
    image = clouds(WIDTH // 2, WIDTH // 2)
    turn = Augmentation(rotate_degrees=40)
    # `rotate` turns counter-clockwise, by which the map back to the image turns clockwise.
    expected = np.asarray(Image.fromarray(image).rotate(Seen(turn, seed).angle, Image.Resampling.BILINEAR))

    inside = (slice(30, -30), slice(30, -30))
    difference = np.abs(view(turn, seed, image)[inside].astype(int) - expected[inside])
    # OpenCV places pixels to 1/32; the fitted angle is right to some hundredths of a degree.
    assert difference.max() <= 3
    assert difference.mean() < 0.7  # Pillow cuts off where OpenCV rounds


def test_edges_are_repeated_outwards() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, :20], image[:, 20:] = 50, 200
    found = view(Augmentation(shift=1.0), 0, image)
    assert set(np.unique(found)) <= set(range(50, 201))
    black = [view(Augmentation(rotate_degrees=180, zoom=0.5, shift=0.5), seed, image).min() for seed in range(20)]
    assert min(black) == 50


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (80, 120), (30, 90)])
def test_a_view_has_the_size_asked_for_and_shows_all_of_a_larger_image(height: int, width: int) -> None:
    seen = Seen(Augmentation(), 0, height, width)
    np.testing.assert_allclose(seen.sides, 1, atol=0.005)
    np.testing.assert_allclose(seen.centre, 0, atol=0.004)  # halves are rounded up: half a pixel in 160


def test_the_images_that_views_are_cut_from_are_at_most_twice_as_large() -> None:
    assert 1 < SOURCE_ROOM <= 2


def recoloured(image: NDArray[np.uint8], gain: float, stretch: float, colour: float) -> NDArray[np.float64]:
    """One step after the other, as the docstring says."""
    bright = image * gain
    mean = (bright @ LUMA_RGB.astype(np.float64)).mean()
    contrasted = (bright - mean) * stretch + mean
    luma = (contrasted @ LUMA_RGB.astype(np.float64))[..., None]
    return np.asarray((contrasted - luma) * colour + luma, np.float64)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "limits", [(0.5, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 0.9), (0.3, 0.4, 0.5)], ids=["b", "c", "s", "all"]
)
def test_brightness_contrast_and_saturation_are_scaled_in_turn(seed: int, limits: tuple[float, float, float]) -> None:
    image = clouds(24, 32)
    found = view(Augmentation(brightness=limits[0], contrast=limits[1], saturation=limits[2]), seed, image)

    def distance(factors: NDArray[np.float64]) -> float:
        return float(np.abs(recoloured(image, *factors).clip(0, 255) - found).max())

    drawn = np.random.default_rng(seed)
    drawn.random(4)
    factors = 1 + drawn.uniform(-1, 1, 7)[4:] * limits
    assert distance(factors) <= 1.01  # OpenCV's fixed point
    assert distance(np.ones(3)) > 2


def test_a_view_is_seeded_and_leaves_the_image_alone() -> None:
    image = clouds(32, 48)
    before = image.copy()
    every = Augmentation(
        crop_area=0.5, crop_ratio=1.3, rotate_degrees=20, shift=0.1, zoom=0.1, flip=True, brightness=0.2, saturation=0.2
    )
    one, other, third = (view(every, seed, image, 24, 24) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, other)
    assert (one != third).any()
    assert (one.dtype.name, one.shape) == ("uint8", (24, 24, 3))
    np.testing.assert_array_equal(image, before)


def test_views_of_one_image_are_what_each_generator_gives_alone() -> None:
    image, every = clouds(36, 60), Augmentation(crop_area=0.4, rotate_degrees=20, flip=True, contrast=0.3)
    for augmentation in (every, replace(every, contrast=0)):
        together = augmentation.views(image, 24, 40, [np.random.default_rng(seed) for seed in range(5)])
        assert together.flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(together, [view(augmentation, seed, image, 24, 40) for seed in range(5)])


@pytest.mark.parametrize("colour", [0.0, 0.3])
def test_a_view_has_the_pixels_that_a_warp_of_three_channels_gives(
    colour: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    warps: list[tuple[Any, ...]] = []
    warp = cv2.warpAffine

    def noted(source: Any, matrix: Any, *size: Any, **how: Any) -> Any:
        warps.append((matrix, size, how))
        return warp(source, matrix, *size, **how)

    monkeypatch.setattr("vision.training.augment.cv2.warpAffine", noted)
    image = clouds(96, 96)
    augmentation = Augmentation(crop_area=0.3, rotate_degrees=25, shift=0.2, flip=True, brightness=colour)
    for seed in range(20):
        found = view(augmentation, seed, image, 64, 64)
        matrix, size, how = warps[-1]
        expected = warp(image, matrix, *size, **how)
        if colour:
            drawn = np.random.default_rng(seed)
            drawn.random(4)
            gain = 1 + drawn.uniform(-1, 1, 7)[4] * colour
            expected = cv2.transform(expected, np.column_stack([np.eye(3) * gain, np.zeros(3)]))
        np.testing.assert_array_equal(found, expected)
