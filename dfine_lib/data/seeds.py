"""Seeds of a run: every random draw is a function of the run's seed, the kind of the draw, and epoch, image or step."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Draw(IntEnum):
    """What a derived seed is for; beside each, what it depends on besides the run's seed. Every run depends on these
    numbers: none is ever changed or used again."""

    ORDER = 0  # epoch
    AUGMENT = 1  # epoch, image, and number of the copy from the second copy on
    SIZE = 2  # epoch, step
    SHARD_ORDER = 3  # epoch
    SHARD_SHUFFLE = 4  # epoch, first image of the stream
    WEIGHTS = 5  # nothing else
    NOISE = 6  # step of the run


def derived_seed(draw: Draw, seed: int, *parts: int) -> int:
    """A 63-bit seed for one draw of a run: a function of the kind of draw, the run's seed and `parts`, well mixed.

    No two draws of a run share a seed, but for one pair: with seed 0, the weights and the order of epoch 0. These feed
    two kinds of generator, torch's and numpy's, so the numbers that they draw have nothing in common.
    """
    entropy = [draw, seed, *parts]
    # Weights and noise go without a tag, as in the runs that there are. `SeedSequence` pads with zeros: [k, k] would be
    # [k, k, 0, 0], which is another draw where k is one of the tags.
    if draw is Draw.WEIGHTS:
        entropy = [seed, 0]
    elif draw is Draw.NOISE and not seed == 1 + parts[0] <= Draw.SHARD_SHUFFLE:
        entropy = [seed, 1 + parts[0]]
    words = np.random.SeedSequence([int(part) % 2**64 for part in entropy]).generate_state(1, np.uint64)
    return int(words[0]) >> 1
