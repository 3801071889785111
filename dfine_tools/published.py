"""What the authors published of their models: accuracy, cost and latency (github.com/Peterande/D-FINE)."""

from __future__ import annotations

# AP on COCO val2017, all 5,000 images, 640 px, in percent. obj2coco: trained on Objects365 first.
PUBLISHED_AP: dict[str, float] = {
    "n_coco": 42.8,
    "s_coco": 48.5,
    "m_coco": 52.3,
    "l_coco": 54.0,
    "x_coco": 55.8,
    "s_obj2coco": 50.7,
    "m_obj2coco": 55.1,
    "l_obj2coco": 57.3,
    "x_obj2coco": 59.3,
}
# Milliseconds an image: one T4, batch 1, fp16, TensorRT 10.4.
PUBLISHED_LATENCY_MS: dict[str, float] = {"n": 2.12, "s": 3.49, "m": 5.62, "l": 8.07, "x": 12.89}
# Millions of parameters and GFLOPs, COCO, as their table rounds them.
PUBLISHED_COST: dict[str, tuple[int, int]] = {"n": (4, 7), "s": (10, 25), "m": (19, 57), "l": (31, 91), "x": (62, 202)}
# Deployed parameters and FLOPs at 640 px that the authors' code gives when run (tests/golden/manifest_*.json).
MEASURED_COST: dict[str, tuple[int, int]] = {
    "n": (3_753_799, 7_164_977_456),
    "s": (10_237_491, 25_171_350_256),
    "m": (19_248_189, 56_684_440_584),
    "l": (30_724_195, 91_034_417_712),
    "x": (61_601_635, 202_486_424_112),
}
