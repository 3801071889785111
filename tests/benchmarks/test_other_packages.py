"""The benchmark beside other packages: what is left out is told, and our side runs."""

from __future__ import annotations

import sys

import torch

from benchmarks import other_packages
from benchmarks.peers.cases import Case, Clock
from benchmarks.peers.packages import answer_of


def test_a_package_without_a_folder_is_left_out_with_a_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["other_packages", "--dry"])
    monkeypatch.delenv("PYDFINE", raising=False)
    monkeypatch.delenv("DFINE_SEG", raising=False)
    threads = torch.get_num_threads()
    other_packages.main()
    torch.set_num_threads(threads)
    told = capsys.readouterr().out.splitlines()
    assert told == [f"{name}: left out, no --{name} FOLDER was given" for name in ("pydfine", "dfine-seg")]


def test_our_side_tells_its_answer_and_the_time_of_each_part():
    case = Case("n", 64, 1, queries=10)
    clock = Clock()
    losses = answer_of("ours", "step", case)(clock)
    assert list(clock.parts) == ["forward", "criterion", "backward"] and losses["loss_vfl"] > 0
    found = answer_of("ours", "forward", case)(Clock())
    assert found["pred_boxes"].shape == (1, 10, 4) and found["pred_logits"].shape == (1, 10, 80)
