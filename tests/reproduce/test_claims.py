"""Claims: every rule is complete, refers to something that can be measured, and is well-formed."""

import math
import re

import pytest

from reproduce import claims, paper
from reproduce.catalogue import claim as first_line
from reproduce.catalogue import names
from reproduce.experiments import ablations, table1

CLAIM = """
[claims.C99]
text = "a is b."
where = "Table 9"
paper = "1"
profiles = ["paper"]
[[claims.C99.parts]]
quantity = "table9/a_{}/error"
against = "table9/b_{}/error"
each = ["x", "y", "z"]
need = 2
test = "welch"
low = -0.1
high = 0.1
reason = "Near enough."
"""


def test_every_claim_of_the_paper_and_of_the_deck_has_a_rule() -> None:
    ids = [claim.id for claim in claims.claims()]
    assert len(set(ids)) == len(ids)
    assert {f"C{n:02}" for n in range(1, 24)} <= set(ids)
    assert {f"D{n:02}" for n in range(1, 8)} <= set(ids)
    for claim in claims.claims():
        assert claim.text.endswith(".")
        assert claim.profiles
        assert all(part.reason.endswith(".") for part in claim.parts)


def test_what_shows_a_claim_is_an_experiment_that_does_not_judge_it() -> None:
    for claim in claims.claims():
        judging = {quantity.experiment for quantity in claim.quantities}
        assert set(claim.shown) <= set(names()) - judging


def test_every_experiment_that_asks_has_a_claim_that_answers() -> None:
    answered = {name for claim in claims.claims() for name in claim.shown}
    answered |= {q.experiment for claim in claims.claims() for q in claim.quantities}
    asking = {name for name in names() if first_line(name).endswith("?")}
    assert {"table2", "fig9"} <= asking <= answered


def test_table_1_has_one_margin() -> None:
    margin = paper.number("table1", "odenet", "test_error").tolerance
    bounds = {
        abs(bound)
        for claim in claims.claims()
        for part in claim.parts
        if part.test == "welch"
        for condition in part.conditions
        if condition.quantity.metric == "test_error"
        for bound in (condition.low, condition.high)
        if math.isfinite(bound)
    }
    assert bounds == {margin}


def test_a_quantity_with_an_interval_of_its_own_is_judged_by_it() -> None:
    slope = claims.Quantity("gradients", "adjoint", "error_slope")
    tests = {
        part.test
        for claim in claims.claims()
        for part in claim.parts
        if slope in {condition.quantity for condition in part.conditions}
    }
    assert tests == {"interval"}


def test_claims_about_classifiers_name_rows_that_are_trained() -> None:
    rows = {"table1": table1.ROWS, "ablations": ablations.ROWS}
    named = [
        quantity
        for claim in claims.claims()
        for part in claim.parts
        for condition in part.conditions
        for quantity in (condition.quantity, condition.against)
        if quantity is not None and quantity.experiment in rows
    ]
    assert len(named) >= 13
    assert all(q.row in rows[q.experiment] for q in named)


def test_a_part_is_written_once_for_several_conditions() -> None:
    (part,) = claims.parse(CLAIM)[0].parts
    assert part.need == 2
    assert [str(c.quantity) for c in part.conditions] == [f"table9/a_{n}/error" for n in "xyz"]
    assert [str(c.against) for c in part.conditions] == [f"table9/b_{n}/error" for n in "xyz"]
    assert {(c.low, c.high) for c in part.conditions} == {(-0.1, 0.1)}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('where = "Table 9"\n', "", "lacks where"),
        ('where = "Table 9"\n', 'where = "Table 9"\nbefore = "holds"\n', "before lacks later"),
        ("need = 2", "needs = 2", "unknown needs"),
        ("need = 2", "need = 4", "need is 4, not between 1 and 3"),
        ('test = "welch"', 'test = "feeling"', "Choose one of exact, mean, welch"),
        ('test = "welch"', 'test = "mean"', "the test 'mean' takes no 'against'"),
        ("low = -0.1\nhigh = 0.1\n", "", "needs low, high or both"),
        ('"table9/a_{}/error"', '"a_{}"', "not written experiment/row/metric"),
        ('["paper"]', '["long"]', "Choose one of paper, short, quick"),
    ],
)
def test_a_rule_that_is_not_whole_is_refused_by_name(old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"claims\.C99.*{re.escape(message)}"):
        claims.parse(CLAIM.replace(old, new))
