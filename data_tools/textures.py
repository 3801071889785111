"""A fixed pool of texture tiles, colours and noise, from which both synthetic data sets are painted.

Tiles are periodic, 256 x 256, float32 in about -1 .. 1. They do not depend on a set's seed: an image draws which tile
it uses and where it starts in it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from data_tools.draws import Draws

SIDE = 256
_POOL_KEY = 0x7E47  # one fixed pool for all seeds
Colour = tuple[float, float, float]  # red, green, blue in 0 .. 255


def _wave(phase: np.ndarray) -> np.ndarray:
    """Triangle wave of period 1, -1 .. 1, with its peaks rounded (a sine without a C library)."""
    phase = phase - np.floor(phase)
    triangle = 1 - 4 * np.abs(phase - 0.5)
    return triangle * (1.5 - 0.5 * triangle * triangle)


def _value_noise(draws: Draws, cells: int) -> np.ndarray:
    """Smooth periodic noise with `cells` random values a side, -1 .. 1."""
    lattice = 2 * draws.units(cells, cells) - 1
    position = np.arange(SIDE) * (cells / SIDE)
    first = position.astype(np.int64)
    share = position - first
    share = share * share * (3 - 2 * share)
    second = (first + 1) % cells
    rows = lattice[first] + (lattice[second] - lattice[first]) * share[:, None]
    return rows[:, first] + (rows[:, second] - rows[:, first]) * share


def _cloud(draws: Draws, cells: int, octaves: int) -> np.ndarray:
    total = np.zeros((SIDE, SIDE))
    for octave in range(octaves):
        total = total + _value_noise(draws, min(cells * 2**octave, SIDE)) * 0.5**octave
    return total


@lru_cache(maxsize=1)
def tiles() -> np.ndarray:
    """float32 `[24, 256, 256]`: clouds, grain, stripes, waves, checks, dots and weave."""
    draws = Draws(_POOL_KEY)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    pool = [_cloud(draws, cells, octaves) for cells, octaves in ((3, 4), (4, 5), (6, 4), (8, 3), (12, 4), (24, 2))]
    pool += [_cloud(draws, cells, 2) for cells in (64, 128)]
    for across, down in ((24, 0), (0, 24), (16, 16), (16, -16), (32, 8), (-8, 32)):  # stripes
        pool.append(_wave(across * x + down * y) + 0.3 * _cloud(draws, 16, 3))
    for across, down, bend in ((10, 0, 0.8), (6, 6, 1.2), (0, 14, 0.6), (3, -9, 1.6)):  # wood and waves
        pool.append(_wave(across * x + down * y + bend * _cloud(draws, 4, 2)) + 0.2 * _cloud(draws, 64, 1))
    for cells in (16, 28):  # checks
        checks = _wave(cells * x) * _wave(cells * y)
        pool.append(np.clip(4 * checks, -1, 1) + 0.2 * _cloud(draws, 32, 2))
    for cells in (20, 32):  # dots
        dots = _wave(cells * x) + _wave(cells * y + 0.5 * (np.floor(cells * x) % 2))
        pool.append(np.clip(2.5 * (dots - 0.6), -1, 1) + 0.2 * _cloud(draws, 32, 2))
    pool += [
        np.maximum(_wave(cells * x) * 0.9, _wave(cells * y)) + 0.2 * _cloud(draws, 64, 2)
        for cells in (32, 48)  # weave
    ]
    return np.stack([np.clip(tile, -1.5, 1.5) for tile in pool]).astype(np.float32)


@lru_cache(maxsize=1)
def noise_tile() -> np.ndarray:
    """float32 `[3, 256, 256]`, mean 0, standard deviation 1, bell-shaped: a sum of four uniform draws, shifted."""
    total = Draws(_POOL_KEY, 1).units(4, SIDE, SIDE, 3)
    bell = (total[0] + total[1] + total[2] + total[3] - 2) * 1.7320508075688772  # std of the sum is 1 / sqrt(3)
    return np.ascontiguousarray(bell.astype(np.float32).transpose(2, 0, 1))


def crop(tile: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """A `[..., height, width]` piece of a periodic tile that starts at (top, left)."""
    rows = np.arange(top, top + height) % SIDE
    columns = np.arange(left, left + width) % SIDE
    return tile.take(rows, axis=-2).take(columns, axis=-1)


def random_crop(draws: Draws, height: int, width: int) -> np.ndarray:
    """float32 `[height, width]`: a piece of one tile of the pool, turned by a multiple of 90 degrees or not."""
    tile = draws.choice(tiles())
    if draws.chance(0.5):
        tile = tile.T
    return crop(tile, draws.integer(0, SIDE - 1), draws.integer(0, SIDE - 1), height, width)


def hue(draws: Draws, saturation: float, value: float) -> Colour:
    """A colour of random hue; saturation 0 .. 1, value (the brightest channel) 0 .. 255."""
    phase = draws.uniform(0, 6)
    channels = [min(max(abs((phase + shift) % 6 - 3) - 1, 0.0), 1.0) for shift in (0, 4, 2)]
    red, green, blue = (value * (1 - saturation * (1 - channel)) for channel in channels)
    return red, green, blue


def distance(first: Colour, second: Colour) -> float:
    """Sum over the channels of the absolute difference, 0 .. 765."""
    return abs(first[0] - second[0]) + abs(first[1] - second[1]) + abs(first[2] - second[2])


def planes(colour: Colour) -> np.ndarray:
    """float32 `[3, 1, 1]`: a colour as it is mixed into a canvas."""
    return np.array(colour, np.float32)[:, None, None]


def finish(draws: Draws, canvas: np.ndarray, exposure: float, slope: float, noise: float) -> np.ndarray:
    """Light the canvas, add sensor noise, round: float32 `[3, H, W]` in 0 .. 255 to uint8 `[H, W, 3]`.

    Args:
        draws: where the light's direction and the noise's place come from.
        canvas: overwritten.
        exposure: gain in the middle of the image.
        slope: relative change of the gain from one side of the image to the other.
        noise: standard deviation of the noise, grey levels.
    """
    height, width = canvas.shape[1:]
    cosine, sine = draws.direction()
    across = ((np.arange(width) + 0.5) / width - 0.5) * (slope * cosine)
    down = ((np.arange(height) + 0.5) / height - 0.5) * (slope * sine)
    gain = (exposure * (1 + across + down[:, None])).astype(np.float32)
    canvas *= gain
    top, left = draws.integer(0, SIDE - 1), draws.integer(0, SIDE - 1)
    canvas += crop(noise_tile(), top, left, height, width) * np.float32(noise)
    canvas += np.float32(0.5)
    np.clip(canvas, 0, 255, out=canvas)
    return np.ascontiguousarray(canvas.astype(np.uint8).transpose(1, 2, 0))
