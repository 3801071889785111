"""Machines and data sets, as their makers state them. Nothing here was measured by us."""

from __future__ import annotations

from dataclasses import dataclass

GB = 1e9


@dataclass(frozen=True)
class Machine:
    """A machine with GPUs, and the share of it that one GPU has."""

    name: str
    gpus: int  # in one machine
    bf16_flops: float  # peak a second of one GPU, matrix units, sums in fp32, no sparsity
    tf32_flops: float
    bandwidth: float  # bytes a second of the GPU's memory
    memory: float  # bytes
    link: float  # bytes a second and direction between the GPUs of a machine
    network: float  # bytes a second and direction of the network between machines, for each GPU
    cores: int  # of the processor, for each GPU
    disk: float  # bytes a second that all GPUs of a machine can read from its disk
    source: str


MACHINES = {
    "h100": Machine(
        "8 x H100 SXM (DGX H100)", 8, 989e12, 494e12, 3.35e12, 80 * GB, 450 * GB, 50 * GB, 14, 50 * GB,
        "NVIDIA H100 and DGX H100 data sheets: 1979 TFLOPS bf16 with sparsity, half without; NVLink 900 GB/s both "
        "ways; "
        "8 x 400 Gb/s; 2 x 56 cores; 8 NVMe disks",
    ),
    "a100": Machine(
        "8 x A100 SXM 80 GB (DGX A100)", 8, 312e12, 156e12, 2.04e12, 80 * GB, 300 * GB, 25 * GB, 16, 25 * GB,
        "NVIDIA A100 and DGX A100 data sheets: 312 TFLOPS bf16; NVLink 600 GB/s both ways; 8 x 200 Gb/s; 2 x 64 cores; "
        "NVMe disks",
    ),
    "4090": Machine(
        "4 x RTX 4090 (workstation)", 4, 165e12, 82.6e12, 1.008e12, 24 * GB, 25 * GB, 0.3 * GB, 8, 7 * GB,
        "NVIDIA Ada whitepaper: 165 TFLOPS bf16 with fp32 sums; no NVLink: PCIe 4.0 x16, 32 GB/s less overhead. "
        "Ours to "
        "assume: 32 cores, 10 Gb/s Ethernet, one PCIe 4.0 NVMe disk (7 GB/s, its maker's number)",
    ),
    "3090": Machine(
        "RTX 3090 (for the reports of others only)", 2, 71e12, 35.6e12, 0.936e12, 24 * GB, 12 * GB, 0.3 * GB, 8, 7 * GB,
        "NVIDIA GA102 whitepaper: 71 TFLOPS fp16 with fp32 sums",
    ),
}  # fmt: skip
PREDICTED = ("h100", "a100", "4090")

# Ours to assume, and what the prediction is most sensitive to.
ARITHMETIC = 0.5  # of the peak that convolutions and products of these shapes reach
MOVING = 0.8  # of the memory's bandwidth that elementwise operations reach
EXCHANGE = 0.7  # of a link's bandwidth that an all-reduce reaches
COLLECTIVE = {"machine": 30e-6, "network": 60e-6}  # seconds of a small all-reduce or all-gather
CONTEXT = 1.0 * GB  # CUDA context, libraries, workspaces
SLACK = 1.1  # of the allocator: pieces that fit nowhere


@dataclass(frozen=True)
class DataSet:
    """Images to train on; their files are taken to be like COCO's, which were measured."""

    name: str
    images: int
    schedule: str  # of the recipe
    boxes: float  # an image
    source: str


DATA_SETS = (
    DataSet("COCO train2017", 118_287, "coco", 7.3, "860,001 boxes, 19.3 GB of files"),
    DataSet("Objects365 v2 train", 1_742_289, "obj365", 14.4, "25 million boxes"),
    DataSet("a billion images", 1_000_000_000, "obj365", 10.0, "no such set: COCO's files, ten boxes each"),
)

DISKS = {  # bytes a second in one stream; whole files of random places a second
    "hard disk": (0.25 * GB, 120.0),
    "SATA SSD": (0.55 * GB, 50_000.0),
    "NVMe SSD": (7.0 * GB, 500_000.0),
    "network file system, 10 Gb/s": (1.25 * GB, 2_000.0),
    "network file system, 100 Gb/s": (12.5 * GB, 10_000.0),
}
DISKS_SOURCE = (
    "makers' data sheets (disks: bytes a second and random reads); the speed of the wire (network), with files a "
    "second "
    "assumed by us: a round trip and a lock for each"
)


@dataclass(frozen=True)
class Report:
    """What another person says that a training took. Their code, their machine; seen as text, not repeated by us."""

    what: str
    size: str
    machine: str
    precision: str
    gpus: int
    batch_size: int  # of all GPUs
    images_per_second: float
    memory_gb: float | None  # of one GPU
    source: str


REPORTS = (
    Report(
        "s, 3,927 images in 260 s, 43.5 GB", "s", "a100", "tf32", 1, 64, 3927 / 260, 43.5,
        "github.com/ArgoHA/D-FINE-seg issue 31 (another implementation, without AMP, its own augmentation)",
    ),
    Report(
        "s, the same on two GPUs in 187 s, 23 GB each", "s", "a100", "tf32", 2, 64, 3927 / 187, 23.0,
        "the same issue",
    ),
    Report(
        "L, COCO in about an hour an epoch", "l", "4090", "bf16", 1, 32, 118_287 / 3600, None,
        "github.com/Intellindust-AI-Lab/DEIM issue 100 (its authors; same network, batch not said)",
    ),
    Report(
        "l, 1,641 steps of 16 images in 26:07", "l", "3090", "bf16", 2, 16, 1641 * 16 / 1567, None,
        "github.com/Peterande/D-FINE issue 102 (the authors' code, fp16)",
    ),
)  # fmt: skip
