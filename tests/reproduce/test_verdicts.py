"""Verdicts: every kind from rows made to give it, and no verdict where none is due."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from reproduce import claims, paper
from reproduce.records import Record
from reproduce.verdicts import ClaimVerdict, Evidence, NumberVerdict, judge_claim, judge_number

NUMBER = paper.parse("""
[t.net.error]
value = 0.42
unit = "%"
where = "Table 9"
better = "lower"
tolerance = 0.13
reason = "Rounding."
test = "prediction"
profiles = ["paper", "short"]

[t.net.parameters]
value = 100
unit = ""
where = "Table 9"
better = "lower"
tolerance = 5
reason = "Rounding."
test = "exact"
profiles = ["paper", "short", "quick"]

[t.net.time]
value = 3
unit = "s"
where = "Figure 9"
better = "lower"
tolerance = 1
reason = "Read off a figure."
test = "none"
profiles = []
""")
ERROR, PARAMETERS, TIME = NUMBER
TIGHT = (0.40, 0.41, 0.42, 0.43, 0.44)


def _rows(
    row: str, values: Sequence[float], metric: str = "error", profile: str = "short"
) -> list[Record]:
    return [
        Record("t", row, metric, value, "%", seed, profile, 1, "", "", "cpu", f"{seed:012x}")
        for seed, value in enumerate(values)
    ]


def _failed(row: str, seed: int) -> Record:
    (one,) = _rows(row, [1.0])
    return replace(one, seed=seed, value=float("nan"), status="diverged", run="f" * 12)


def _number(rows: Sequence[Record], number: paper.PaperNumber = ERROR) -> NumberVerdict:
    return judge_number(number, "net", Evidence(rows))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (TIGHT, "reproduced"),
        ([v + 0.3 for v in TIGHT], "worse"),
        ([v - 0.3 for v in TIGHT], "better"),
        ((0.2, 0.3, 0.4, 0.5, 0.6), "unclear"),
        (TIGHT[:4], "unclear"),
        ((), "not run"),
    ],
)
def test_a_number_is_judged_by_the_prediction_interval(values: Sequence[float], kind: str) -> None:
    assert _number(_rows("net", values)).kind == kind


def test_few_seeds_are_told_how_many_are_needed() -> None:
    assert _number(_rows("net", TIGHT[:4])).needed == 5


def test_a_wide_interval_is_told_how_many_seeds_would_decide_or_that_none_would() -> None:
    spread = _number(_rows("net", (0.36, 0.39, 0.42, 0.45, 0.48)))
    assert spread.kind == "unclear"
    assert spread.needed is not None
    assert spread.needed > 5
    wild = _number(_rows("net", (0.2, 0.3, 0.4, 0.5, 0.6)))
    assert wild.needed is None
    assert "no number of seeds" in wild.detail


@pytest.mark.parametrize(
    ("shift", "scale", "needed"), [(0.25, 6.3, 10), (0.232, 5.06, 6), (0.15, 3.8, 10)]
)
def test_enough_seeds_may_also_show_that_the_paper_differs(
    shift: float, scale: float, needed: int
) -> None:
    values = [0.42 + shift + scale * (v - 0.42) for v in TIGHT]
    verdict = _number(_rows("net", values))
    assert verdict.kind == "unclear"
    assert verdict.needed is not None
    assert abs(verdict.needed - needed) <= 3


def test_a_first_seed_of_a_longer_training_undoes_no_verdict() -> None:
    rows = _rows("net", TIGHT) + _rows("net", [0.5], profile="paper")
    assert (_number(rows).kind, _number(rows).profile) == ("reproduced", "short")
    claim = _rows("a", TIGHT) + _rows("b", TIGHT)
    more = _rows("a", [0.5], profile="paper") + _rows("b", [0.5], profile="paper")
    verdict = _claim(EQUAL, claim + more)
    assert (verdict.kind, verdict.profile) == ("holds", "short")


def test_a_shorter_training_does_not_decide_what_enough_seeds_of_a_longer_leave_open() -> None:
    wide = [0.42 + 30 * (value - 0.42) for value in TIGHT]
    rows = _rows("net", [value + 1 for value in TIGHT]) + _rows("net", wide, profile="paper")
    assert (_number(rows).kind, _number(rows).profile) == ("unclear", "paper")
    claim = _rows("a", TIGHT) + _rows("b", TIGHT)
    more = _rows("a", wide, profile="paper") + _rows("b", wide, profile="paper")
    verdict = _claim(EQUAL, claim + more)
    assert (verdict.kind, verdict.profile) == ("undecided", "paper")
    broken = [*rows, replace(_failed("net", 5), profile="paper")]
    assert (_number(broken).kind, _number(broken).profile) == ("worse", "short")


def test_a_failed_run_keeps_its_row_from_a_verdict() -> None:
    verdict = _number([*_rows("net", TIGHT), _failed("net", 5)])
    assert (verdict.kind, verdict.detail) == ("unclear", "1 of 6 runs failed")


def test_a_profile_that_is_too_reduced_compares_with_nothing() -> None:
    verdict = _number(_rows("net", TIGHT, profile="quick"))
    assert (verdict.kind, verdict.profile) == ("not comparable", "quick")


def test_the_profile_nearest_to_the_paper_is_judged() -> None:
    rows = _rows("net", TIGHT) + _rows("net", [v + 1 for v in TIGHT], profile="paper")
    assert (_number(rows).kind, _number(rows).profile) == ("worse", "paper")


def test_changed_settings_and_older_protocols_are_not_judged() -> None:
    rows = _rows("net", TIGHT)
    assert _number([replace(r, overrides="model.width=3") for r in rows]).kind == "not run"
    newer = [replace(r, protocol=2, value=9.0, run="a" * 12) for r in rows]
    assert _number([*rows, *newer]).kind == "worse"


@pytest.mark.parametrize(("value", "kind"), [(103, "reproduced"), (106, "worse"), (94, "better")])
def test_an_exact_number_needs_one_seed(value: int, kind: str) -> None:
    rows = _rows("net", [value], "parameters", "quick")
    assert _number(rows, PARAMETERS).kind == kind


def test_a_number_without_a_test_is_only_printed_beside_ours() -> None:
    verdict = _number(_rows("net", [3.0] * 5, "time"), TIME)
    assert (verdict.kind, verdict.detail) == ("not comparable", "Read off a figure.")
    assert verdict.profile == "short"
    assert verdict.sample is not None
    assert set(verdict.sample.values.values()) == {3.0}


def _claim(parts: str, rows: Sequence[Record]) -> ClaimVerdict:
    text = f"""
[claims.C99]
text = "a is b."
where = "Table 9"
paper = "1"
profiles = ["paper", "short"]
{parts}
"""
    (claim,) = claims.parse(text)
    return judge_claim(claim, Evidence(rows))


EQUAL = """
[[claims.C99.parts]]
quantity = "t/a/error"
against = "t/b/error"
test = "welch"
low = -0.13
high = 0.13
reason = "Near."
"""
BEATS = """
[[claims.C99.parts]]
quantity = "t/{}/error"
against = "t/z/error"
each = ["a", "b", "c"]
need = 2
test = "welch"
high = 0.0
reason = "Lower."
"""


@pytest.mark.parametrize(
    ("shift", "scale", "kind"),
    [
        (0.0, 1.0, "holds"),
        (0.5, 1.0, "does not hold"),
        (-0.5, 1.0, "does not hold"),
        (0.13, 1.0, "undecided"),
        (0.0, 20.0, "undecided"),
    ],
)
def test_a_claim_is_judged_by_where_the_interval_lies(
    shift: float, scale: float, kind: str
) -> None:
    first = [0.42 + shift + scale * (v - 0.42) for v in TIGHT]
    verdict = _claim(EQUAL, _rows("a", first) + _rows("b", TIGHT))
    assert (verdict.kind, verdict.profile) == (kind, "short")


def test_an_open_claim_is_told_how_many_seeds_would_decide() -> None:
    first = [0.47 + 6 * (v - 0.42) for v in TIGHT]
    verdict = _claim(EQUAL, _rows("a", first) + _rows("b", TIGHT))
    assert verdict.kind == "undecided"
    assert verdict.needed is not None
    assert 5 < verdict.needed < 100


def test_four_seeds_decide_nothing() -> None:
    verdict = _claim(EQUAL, _rows("a", TIGHT[:4]) + _rows("b", TIGHT))
    assert (verdict.kind, verdict.needed) == ("undecided", 5)


def test_rows_of_different_profiles_are_not_mixed() -> None:
    rows = _rows("a", TIGHT, profile="paper") + _rows("b", TIGHT)
    verdict = _claim(EQUAL, rows)
    assert verdict.kind == "undecided"
    assert verdict.detail == "no rows of t/b/error"
    assert _claim(EQUAL, _rows("c", TIGHT)).kind == "not run"


def test_a_failed_run_leaves_a_claim_open() -> None:
    verdict = _claim(EQUAL, [*_rows("a", TIGHT), *_rows("b", TIGHT), _failed("b", 7)])
    assert (verdict.kind, verdict.detail) == ("undecided", "1 of 6 runs failed")


@pytest.mark.parametrize(
    ("shifts", "kind"),
    [((-1, -1, 1), "holds"), ((-1, 1, 1), "does not hold"), ((-1, 0, 1), "undecided")],
)
def test_as_many_conditions_must_hold_as_the_rule_needs(
    shifts: tuple[int, ...], kind: str
) -> None:
    rows = _rows("z", TIGHT)
    for row, shift in zip("abc", shifts, strict=True):
        rows += _rows(row, [v + shift for v in TIGHT])
    verdict = _claim(BEATS, rows)
    assert verdict.kind == kind
    assert len(verdict.findings) == 3


def test_pairs_decide_what_means_do_not() -> None:
    wide = (0.2, 0.8, 1.4, 2.0, 2.6)
    rows = _rows("a", [v + 0.01 * (k % 2) for k, v in enumerate(wide)]) + _rows("b", wide)
    assert _claim(EQUAL, rows).kind == "undecided"
    assert _claim(EQUAL.replace("welch", "paired"), rows).kind == "holds"


RATIO = """
[[claims.C99.parts]]
quantity = "t/a/parameters"
against = "t/b/parameters"
test = "ratio"
low = 0.33
high = 0.40
reason = "A third."
"""


@pytest.mark.parametrize("first", [3, 4, 5])
def test_pairs_need_seeds_that_both_have(first: int) -> None:
    others = [
        replace(r, seed=r.seed + first, run=f"{r.seed + first:012x}") for r in _rows("b", TIGHT)
    ]
    verdict = _claim(EQUAL.replace("welch", "paired"), _rows("a", TIGHT) + others)
    assert verdict.kind == "undecided"
    assert verdict.findings[0].n == 5 - first


def test_ratios_that_vary_are_told_how_many_seeds_would_decide() -> None:
    rows = _rows("a", (36, 42, 38, 40, 37), "parameters")
    rows += _rows("b", (100, 101, 100, 99, 100), "parameters")
    verdict = _claim(RATIO, rows)
    assert verdict.kind == "undecided"
    assert verdict.needed is not None
    assert 8 < verdict.needed < 25


def test_a_ratio_to_nothing_decides_nothing() -> None:
    rows = _rows("a", [3], "parameters") + _rows("b", [0], "parameters")
    assert _claim(RATIO, rows).kind == "undecided"


def test_conditions_of_a_part_that_holds_already_ask_for_no_seeds() -> None:
    rows = _rows("z", TIGHT) + _rows("a", [v - 1 for v in TIGHT])
    rows += _rows("b", [v - 1 for v in TIGHT]) + _rows("c", TIGHT)  # c never decides
    rows += _rows("d", [0.47 + 6 * (v - 0.42) for v in TIGHT]) + _rows("e", TIGHT)
    second = EQUAL.replace("t/a/error", "t/d/error").replace("t/b/error", "t/e/error")
    verdict = _claim(BEATS + second, rows)
    assert verdict.kind == "undecided"
    assert verdict.needed is not None
    assert verdict.needed < 100


def _open(seeds: float, leans: float) -> list[float]:
    """Return five values around 0.13 that so many seeds would put below it, or above."""
    sd = 0.01 * seeds**0.5 / 2
    return [0.13 + 0.01 * leans + sd * z for z in (-1.2649, -0.6325, 0.0, 0.6325, 1.2649)]


BELOW = """
[[claims.C99.parts]]
quantity = "t/{}/error"
each = ["a", "b", "c"]
need = 2
test = "mean"
high = 0.13
reason = "Lower."
"""


@pytest.mark.parametrize(
    ("leans", "seeds"),
    [
        ((-1, -1, -1), 40),  # holds with the second
        ((1, 1, 1), 40),  # fails with the second
        ((-1, 1, -1), 160),
        ((1, -1, 1), 160),
    ],
)
def test_a_part_is_decided_by_its_first_conditions_that_suffice(
    leans: tuple[int, ...], seeds: int
) -> None:
    rows = [
        record
        for row, n, lean in zip("abc", (20, 40, 160), leans, strict=True)
        for record in _rows(row, _open(n, lean))
    ]
    verdict = _claim(BELOW, rows)
    assert verdict.kind == "undecided"
    needs = {f.condition.quantity.row: f.needed for f in verdict.findings}
    assert verdict.needed == needs[{40: "b", 160: "c"}[seeds]]


def test_a_claim_fails_with_its_first_part_and_holds_with_its_last() -> None:
    first = BELOW.replace('each = ["a", "b", "c"]\nneed = 2\n', "").replace("{}", "a")
    second = first.replace("t/a/", "t/b/")
    for lean, decisive in ((1, "a"), (-1, "b")):
        rows = _rows("a", _open(20, lean)) + _rows("b", _open(160, -1))
        verdict = _claim(first + second, rows)
        needs = {f.condition.quantity.row: f.needed for f in verdict.findings}
        assert (verdict.kind, verdict.needed) == ("undecided", needs[decisive])


OWN = """
[[claims.C99.parts]]
quantity = "t/a/gap"
test = "interval"
low = -0.2
high = 0.2
reason = "Near."
"""


@pytest.mark.parametrize(
    ("ends", "kind"),
    [((-0.1, 0.1), "holds"), ((-0.1, 0.3), "undecided"), ((0.3, 0.5), "does not hold")],
)
def test_an_interval_that_was_measured_is_judged_as_it_is(
    ends: tuple[float, float], kind: str
) -> None:
    rows = _rows("a", [sum(ends) / 2], "gap")
    rows += _rows("a", [ends[0]], "gap_low") + _rows("a", [ends[1]], "gap_high")
    assert _claim(OWN, rows).kind == kind
    assert _claim(OWN, rows[:1]).detail == "no interval of t/a/gap"
    assert _claim(OWN, [*rows, _failed("a", 7)]).kind == "undecided"


def test_a_ratio_of_exact_numbers_needs_one_seed() -> None:
    rows = _rows("a", [37], "parameters") + _rows("b", [100], "parameters")
    assert _claim(RATIO, rows).kind == "holds"
    assert _claim(RATIO.replace("0.40", "0.36"), rows).kind == "does not hold"


def test_the_claims_on_table_1_follow_from_its_rows() -> None:
    def rows(row: str, values: Sequence[float]) -> list[Record]:
        return [replace(r, experiment="table1", metric="test_error") for r in _rows(row, values)]

    by_id = {claim.id: claim for claim in claims.claims()}
    evidence = Evidence(
        rows("resnet", [v - 0.01 for v in TIGHT])
        + rows("odenet", TIGHT)
        + rows("rknet", [v + 0.4 for v in TIGHT])
    )
    assert judge_claim(by_id["C04"], evidence).kind == "holds"
    assert judge_claim(by_id["C05"], evidence).kind == "holds"
    assert judge_claim(by_id["C06"], evidence).kind == "does not hold"
    assert judge_claim(by_id["C07"], evidence).kind == "not run"
    assert judge_claim(by_id["C21"], evidence).detail == "no rows of ablations/no_block/test_error"
