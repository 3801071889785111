"""How long it takes until something happens: `import dfine_lib`, what a program imports of it, `dfine --help`.

    python -m benchmarks.import_time

Each turn is a fresh Python. Of imports, what torch and torchvision take is left out: they are imported before. The help
is the whole process, Python's own start included.
"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks import ratio

PREPARED = """
import sys, time
import torch, torchvision
start = time.perf_counter()
{line}
print(time.perf_counter() - start)
"""
BEYOND = "beyond torch and torchvision"
OURS, PEER = "from dfine_lib import DFINE, Predictor", "from transformers import DFineForObjectDetection"
TRAINING = "import dfine_lib.train.trainer, dfine_tools.analysis.saved"


def seconds_of(line: str) -> float:
    """Of an import, in a fresh Python that has torch and torchvision."""
    return float(_python("-c", PREPARED.format(line=line)).split()[-1])


def seconds_of_help() -> float:
    """From the start of the process until it has ended."""
    start = time.perf_counter()
    text = _python("-m", "dfine_tools.cli", "--help")
    elapsed = time.perf_counter() - start
    if "COMMAND" not in text:
        raise SystemExit(f"this is no help:\n{text}")
    return elapsed


def _python(*words: str) -> str:
    run = subprocess.run([sys.executable, *words], cwd=ratio.ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.stderr)
    return run.stdout


def main() -> None:
    options = ratio.arguments(__doc__, turns=9).parse_args()
    rows = []
    lines = (
        ("import dfine_lib", "import dfine_lib", 0.3),
        (OURS, OURS, 0.3),
        ("what dfine train imports", TRAINING, None),
    )
    for what, line, aim in lines:
        if options.only in what:
            case = {"what": what, "case": BEYOND, "at_most": aim}
            rows.append(ratio.measure(lambda line=line: seconds_of(line), turns=options.turns, **case))
    if options.only in "dfine --help":
        rows.append(
            ratio.measure(seconds_of_help, turns=options.turns, what="dfine --help", case="whole process", at_most=0.5)
        )
    if options.only in PEER:
        import transformers

        row = {
            "what": "from dfine_lib import DFINE",
            "case": BEYOND,
            "against": f"transformers {transformers.__version__}",
        }
        rows.append(
            ratio.compare(
                lambda: seconds_of("from dfine_lib import DFINE"), lambda: seconds_of(PEER), turns=options.turns, **row
            )
        )
    if not options.dry:
        print(ratio.record("import_time", rows))


if __name__ == "__main__":
    main()
