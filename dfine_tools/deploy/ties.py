"""Near-ties between an exported file and its weights: differences that rounding explains, and only those.

The model takes the Q tokens of the highest scores as queries. Runtimes round differently; where the Q-th and the next
score lie within rounding of each other, a file may select the other token, and give another detection with it. Both
selections are right. That a difference comes from there is not assumed: the reference runs again with the selection
that the file's detections show, and must then agree with the file.
"""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dfine_lib.evaluate.postprocess import postprocess
from dfine_lib.model.dfine import DFINE
from dfine_tools.deploy.predict import network_input
from dfine_tools.deploy.results import Prediction, alone, unmatched

_MOST_PASSES = 8  # that the search for a file's selection takes at most


class Limits(NamedTuple):
    """How far a file may be from its weights."""

    box: float  # of the image's longer side
    score: float
    share: float  # of objects that may be further off, or without a partner
    ap: float  # loss of average precision, 0..1
    rounding: float  # difference of two logits up to which rounding may decide which is the higher; 0: never


class Tie(NamedTuple):
    """Two candidates of which rounding decides which is taken."""

    image: str
    between: str
    margin: float  # difference of their logits
    rounding: float  # up to which a difference is a tie

    def __str__(self) -> str:
        return f"{self.image}: {self.between} are {self.margin:.1e} apart (a tie up to {self.rounding:.0e})"


def compare(one: Prediction, other: Prediction, score: float, limits: Limits) -> tuple[list[str], list[Tie]]:
    """Objects above `score` that only one of two answers for an image holds, in words, and those that are ties.

    An object that scores as the other answer's last one, up to floating-point error, may have missed the top-k there.
    """
    words, ties = [], []
    for mine, theirs, whose in ((one, other, "first"), (other, one, "second")):
        for k in unmatched(mine, theirs, score, limits.box, limits.score):
            margin = torch.inf
            if len(theirs) == len(mine):  # else an answer lacks objects for another reason
                margin = abs(float(mine.scores[k].logit() - theirs.scores[-1].logit()))
            if margin <= limits.rounding:  # false for NaN
                ties.append(Tie(mine.name, "two candidates for the last of the top-k", margin, limits.rounding))
            else:
                words.append(alone(mine, k, whose))
    return words, ties


class Reselection:
    """The reference model, whose query selection can be steered."""

    def __init__(self, weights: str | Path | DFINE, image_hw: tuple[int, int]) -> None:
        self.weights, self.image_hw = weights, image_hw
        self._left_out: list[int] = []  # tokens that must not be selected
        self._scores = torch.empty(0)  # [S], of every token

    def follow(
        self, expected: Prediction, image: Tensor, found: Prediction, score: float, limits: Limits
    ) -> tuple[Prediction, Tie | None] | None:
        """The reference's answer with the tokens that `found` shows to have been selected.

        Tokens change places only where their scores are within `limits.rounding` of each other: one that was selected
        and of which `found` holds no object is left out, the lowest score first, until the answers agree.

        Args:
            expected: the reference's own answer; only its names and size are read.
            image: uint8 `[3, H, W]`.
            found: a file's answer for it.
            score: objects below it need not agree.
            limits: up to which objects agree.

        Returns:
            The answer that agrees with `found`, and the tie if it took another selection; None: no selection agrees.
        """
        self._left_out, undecided, scores = [], None, self._scores
        for _ in range(_MOST_PASSES):
            answer, token_of, selected = self._run(expected, image)
            if undecided is None:
                scores = self._scores
                undecided, spare = _undecided(scores, len(selected), limits.rounding)
            if not compare(answer, found, score, limits)[0]:
                if not self._left_out:
                    return answer, None
                margin = max(0.0, float(scores[self._left_out].max() - scores[selected].min()))
                return answer, Tie(expected.name, "two candidates for the last query", margin, limits.rounding)
            lacking = unmatched(answer, found, 0.0, limits.box, limits.score)
            wrong = {int(token_of[k]) for k in lacking if answer.scores[k] >= score}
            unseen = set(selected.tolist()) - {int(t) for k, t in enumerate(token_of) if k not in set(lacking)}
            candidates = [t for t in wrong or unseen if undecided[t]]
            if not candidates or len(self._left_out) == spare:
                return None
            self._left_out.append(min(candidates, key=lambda t: float(scores[t])))
        return None

    @cached_property
    def _model(self) -> DFINE:
        given = isinstance(self.weights, DFINE)
        model = copy.deepcopy(self.weights) if given else DFINE.from_pretrained(self.weights)
        model.decoder.enc_score_head.register_forward_hook(self._steer)
        return model.eval()

    def _steer(self, _module: nn.Module, _inputs: tuple[Tensor], logits: Tensor) -> Tensor:
        """Class logits of all tokens, `[1, S, C]`: keep their scores, and rule out some."""
        self._scores = logits[0].amax(-1)
        logits = logits.clone()
        logits[:, self._left_out] = -torch.inf
        return logits

    @torch.inference_mode()
    def _run(self, expected: Prediction, image: Tensor) -> tuple[Prediction, Tensor, Tensor]:
        """Detections, the token `[K]` that each comes from, and all selected tokens `[Q]`."""
        pixels = network_input(image, self.image_hw)[None].float() / 255
        (found,) = postprocess(self._model(pixels), torch.tensor([expected.size_wh]))
        selectable = self._scores.clone()
        selectable[self._left_out] = -torch.inf
        queries = min(self._model.config.num_queries, len(selectable))
        selected = selectable[None].topk(queries, dim=1).indices[0]  # as the decoder does: equal scores fall alike
        answer = Prediction(
            expected.name, expected.size_wh, found.labels, found.boxes_xyxy, found.scores, expected.class_names
        )
        return answer, selected[found.queries], selected


def _undecided(scores: Tensor, queries: int, rounding: float) -> tuple[Tensor, int]:
    """Tokens that rounding may move into the selection or out of it, bool `[S]`; and how many may come in."""
    if queries == len(scores) or not rounding:
        return torch.zeros(len(scores), dtype=torch.bool), 0
    last, following = scores.topk(queries + 1).values[-2:]
    undecided = (scores <= following + rounding) & (scores >= last - rounding)
    return undecided, int((undecided & (scores <= following)).sum())
