"""What only a GPU can show: numerics beside the CPU, speed and memory beside the authors' code, engines, a whole run.

benchmarks/gpu.sh [--authors path/to/D-FINE] [--only parity,attention] [--dry]

At most ten minutes on one card, without a network. Each check runs in a process of its own and is written to
results/gpu.json once it has ended; a check that raises, dies or hangs is a row of the table, and the next one starts.
Stopped, or out of time, the same command continues with the checks that are left, on the same card and commit.
`--dry` runs every check on the CPU with tiny sizes: it shows that the checks work, and its numbers are not recorded.
"""
