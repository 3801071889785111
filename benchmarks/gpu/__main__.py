from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path

from benchmarks.peers import authors
from benchmarks.table import portable


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu.sh", description=sys.modules[__package__].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    authors.add_argument(parser)
    parser.add_argument("--only", default="", help="names of checks with commas: run these, done or not")
    parser.add_argument("--restart", action="store_true", help="run all checks again")
    parser.add_argument("--minutes", type=float, default=9.5, help="of this call (default: 9.5)")
    parser.add_argument(
        "--dry", action="store_true", help="every check on the CPU with tiny sizes; nothing is recorded"
    )
    parser.add_argument("--out", type=Path, help="file of the results (default: benchmarks/results/gpu.json)")
    options = parser.parse_args()
    if options.dry:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks for a device
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # to ask for a GPU must not use it: see check.PROCESSES
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    from benchmarks import table
    from benchmarks.gpu.check import Setting
    from benchmarks.gpu.pack import FOLDER, REAL, Refused, results_file, run_pack
    from benchmarks.gpu.page import as_table

    file = options.out or results_file(options.dry)
    folder = (options.out.with_suffix("") if options.out else FOLDER) / ("dry" if options.dry else "card")
    if options.restart:
        file.unlink(missing_ok=True)
    words = sys.argv[1:]
    options.authors = options.authors and options.authors.resolve()
    if options.authors and "--authors" not in " ".join(words):  # of the variable
        words += ["--authors", str(options.authors)]
    command = portable(shlex.join(["benchmarks/gpu.sh", *words]))
    only = filter(None, options.only.split(","))
    try:
        setting = Setting(options.dry, folder, options.authors)
        results = run_pack(setting, file, only=only, seconds=60 * options.minutes, command=command)
    except KeyboardInterrupt:
        print(f"\nstopped; {file} holds what has been found, and the same command continues", file=sys.stderr)
        return 130
    except Refused as error:
        print(f"benchmarks/gpu.sh: {error}", file=sys.stderr)
        return 2
    print(as_table(results))
    if file == REAL:
        table.write()
    rows = [row for found in results["checks"].values() for row in found["rows"]]
    return int(any(row["status"] in ("fail", "error", "timeout") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
