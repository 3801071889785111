"""How long an epoch takes, what it needs and what stops it first, for each size, data set and number of GPUs.

python -m benchmarks.scaling count                                   operations and bytes of one image
python -m benchmarks.scaling time --data ../shared/data/coco_free     its seconds, on this CPU
python -m benchmarks.scaling check --data ../shared/data/bccd         runs of 1 and 2 processes, to hold it against
python -m benchmarks.scaling write                                   benchmarks/scaling.md from all three
"""
