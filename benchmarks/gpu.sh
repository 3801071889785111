#!/usr/bin/env bash
# Everything that only a GPU can show, in one command of at most ten minutes, without a network:
#   benchmarks/gpu.sh                                  on a machine with an NVIDIA GPU; fills docs/speed.md
#   AUTHORS=path/to/D-FINE benchmarks/gpu.sh           compared with the authors' code too
#   benchmarks/gpu.sh --dry                            every check on the CPU with tiny sizes; records nothing
# Stop it at any time: the same command continues with what is left. `--help` lists the options.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root:$root/notebooks${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m benchmarks.gpu "$@"
