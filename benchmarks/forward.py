"""Inference in torch: one image at 640 px as `dfine predict` runs it, beside the authors' `deploy()`.

python -m benchmarks.forward --authors path/to/D-FINE [--only "s,"]
"""

from __future__ import annotations

import torch

from benchmarks.peers import authors
from benchmarks.peers.cases import Case
from benchmarks.ratio import Row, arguments, compare, record, use_threads
from dfine_tools.deploy.graph import RawDetector, graph_form

AIM = 0.80
CASES = [Case("n", 640, 1), Case("s", 640, 1)]


def main() -> None:
    parser = arguments(__doc__, turns=15)
    authors.add_argument(parser)
    options = parser.parse_args()
    use_threads(options.threads)
    peer = authors.asked_for(options)
    if peer is None:
        return
    rows = [beside_authors(case, peer, options.turns) for case in CASES if options.only in str(case)]
    if not options.dry:
        record("forward", rows)


@torch.inference_mode()
def beside_authors(case: Case, peer: authors.Authors, turns: int) -> Row:
    """One image, from its tensor to logits and boxes of the last layer."""
    images, model = case.data().images, case.model().eval()
    theirs = peer.model(model, case.side).eval().deploy()
    ours = RawDetector(graph_form(model, (case.side, case.side))).to(memory_format=torch.channels_last)
    found, expected = ours(images), theirs(images)
    difference = (found[0] - expected["pred_logits"]).abs().median().item()
    if difference > 1e-4:
        raise SystemExit(f"{case}: logits differ by {difference:.1e}; nothing is measured")

    def our_forward() -> None:
        ours(images.contiguous(memory_format=torch.channels_last))

    def their_forward() -> None:
        theirs(images)

    return compare(
        our_forward, their_forward, turns=turns, warmup=3, what="evaluation forward", case=str(case),
        against=authors.NAME, at_most=AIM, details={"median_logit_difference": difference},
    )  # fmt: skip


if __name__ == "__main__":
    main()
