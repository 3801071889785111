"""How many images a second the synthetic sets are drawn and written at, on one core.

    python benchmarks/data_sets.py [--images 300] [--size 160]

Prints one line a set: drawing, encoding and writing to disk, without the one-off making of texture and distance tables.
The aim is 150 images/s at 160 px. Time is the process's own (CPU), so that other work on the machine hardly counts;
the wall clock stands beside it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from data_tools.digits import make_digits
from data_tools.digits import sample as sample_digits
from data_tools.shapes import make_shapes
from data_tools.shapes import sample as sample_shapes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--size", type=int, default=160, help="side of the images, px")
    options = parser.parse_args()
    for name, make, sample in (("shapes", make_shapes, sample_shapes), ("digits", make_digits, sample_digits)):
        for index in range(20):  # the tables
            sample(0, index, options.size)
        with tempfile.TemporaryDirectory() as folder:
            wall, own = time.perf_counter(), time.process_time()
            make(Path(folder) / name, train=options.images, val=1, size=options.size, progress=False)
            wall, own = time.perf_counter() - wall, time.process_time() - own
        images = options.images + 1
        print(f"{name}: {images / own:.0f} images/s of CPU time, {images / wall:.0f} images/s by the wall clock")


if __name__ == "__main__":
    main()
