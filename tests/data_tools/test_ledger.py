"""The ledger of a source: found = taken + left out."""

import json

import pytest

from data_tools.ledger import Ledger, LedgerError


def ledger_of_ten():
    listed = []
    ledger = Ledger(listed=lambda *row: listed.append(row))
    ledger.found("images", 10)
    ledger.taken("images", 7)
    ledger.left_out("images", "unreadable", "a.jpg")
    ledger.left_out("images", "no annotation", "labels.json, lines 4 and 5", n=2)
    return ledger, listed


def test_a_ledger_says_what_was_found_taken_and_left_out_most_frequent_reason_first():
    ledger, _ = ledger_of_ten()
    ledger.check()
    assert ledger.summary("images") == "10 images found: 7 taken, 3 left out (no annotation: 2, unreadable: 1)"
    assert json.loads(json.dumps(ledger.to_dict())) == {
        "images": {"found": 10, "taken": 7, "left_out": {"no annotation": 2, "unreadable": 1}}
    }
    assert next(iter(ledger.reasons("images"))) == "no annotation"


def test_places_of_what_is_left_out_are_passed_on_one_by_one():
    _, listed = ledger_of_ten()
    assert listed == [
        ("images", "unreadable", "a.jpg"),
        ("images", "no annotation", "labels.json, lines 4 and 5"),
    ]


@pytest.mark.parametrize("fault", ["found", "taken", "left out"])
def test_a_ledger_whose_sums_disagree_is_an_error(fault):
    ledger, _ = ledger_of_ten()
    if fault == "left out":
        ledger.left_out("boxes", "no area", "annotation 7")
    else:
        getattr(ledger, fault)("images")
    with pytest.raises(LedgerError, match="boxes: 0 found" if fault == "left out" else "images: 1[01] found"):
        ledger.check()


def test_kinds_are_kept_apart_and_nothing_found_is_a_sum_too():
    ledger = Ledger()
    ledger.found("boxes")
    ledger.taken("boxes")
    ledger.found("images", 0)
    ledger.left_out("images", "unreadable", "nowhere", n=0)
    ledger.check()
    assert ledger.summary("boxes") == "1 box found: 1 taken"
    assert ledger.summary("images") == "0 images found: 0 taken"
    with pytest.raises(ValueError, match="negative, got -1"):
        ledger.found("images", -1)
