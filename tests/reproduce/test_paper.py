import math
from importlib import resources

import pytest
import yaml

from reproduce import paper

ENTRY = """
[table9.net.error]
value = 1.5
unit = "%"
where = "Table 9"
better = "lower"
tolerance = 0.1
reason = "Half the last digit."
test = "prediction"
profiles = ["paper"]
"""


@pytest.mark.parametrize(
    ("row", "error", "parameters"),
    [
        ("mlp", 1.60, 240_000),
        ("mlp_deskewed", 1.60, 240_000),
        ("resnet", 0.41, 600_000),
        ("rknet", 0.47, 220_000),
        ("odenet", 0.42, 220_000),
    ],
)
def test_every_row_of_table_1_has_the_papers_numbers(
    row: str, error: float, parameters: int
) -> None:
    assert paper.number("table1", row, "test_error").value == error
    assert paper.number("table1", row, "parameters").value == parameters


@pytest.mark.parametrize(("row", "error"), [("mlp", 1.60), ("resnet", 0.42), ("odenet", 0.42)])
def test_errors_of_table_1_are_held_to_two_binomial_standard_errors(
    row: str, error: float
) -> None:
    two = 2 * math.sqrt(error * (100 - error) / 10_000)
    assert abs(paper.number("table1", row, "test_error").tolerance - two) < 0.005


def test_a_tolerance_before_needs_what_was_changed() -> None:
    with pytest.raises(ValueError, match="lacks later"):
        paper.parse(ENTRY + "tolerance_before = 0.2\n")
    (number,) = paper.parse(ENTRY + 'later = "It was wider."\ntolerance_before = 0.2\n')
    assert (number.later, number.tolerance_before) == ("It was wider.", 0.2)


@pytest.mark.parametrize(
    ("row", "memory", "time"),
    [("resnet", "O(L)", "O(L)"), ("rknet", "O(L~)", "O(L~)"), ("odenet", "O(1)", "O(L~)")],
)
def test_orders_of_growth_are_kept_as_printed(row: str, memory: str, time: str) -> None:
    assert paper.number("table1", row, "memory").value == memory
    assert paper.number("table1", row, "time").value == time
    assert paper.number("table1", row, "time").tolerance is None


def test_table_1_has_no_other_numbers() -> None:
    assert len(paper.numbers("table1")) == 2 * 4 + 2 * 3
    assert paper.numbers("unheard_of") == ()


def test_a_number_that_the_paper_does_not_print_is_refused_by_name() -> None:
    with pytest.raises(LookupError, match=r"no memory for the row 'mlp' of table1"):
        paper.number("table1", "mlp", "memory")


@pytest.mark.parametrize(
    ("count", "fits"), [(601_482, ["resnet"]), (232_970, ["rknet", "odenet"])]
)
def test_the_parameter_counts_of_the_headline_stem_lie_within_the_tolerances(
    count: int, fits: list[str]
) -> None:
    for row in fits:
        published = paper.number("table1", row, "parameters")
        assert published.tolerance is not None
        assert abs(count - float(published.value)) <= published.tolerance


def test_a_number_is_compared_with_the_row_of_its_own_name_unless_it_lists_others() -> None:
    assert paper.parse(ENTRY)[0].rows == ("net",)
    assert paper.parse(ENTRY + 'rows = ["a", "b"]')[0].rows == ("a", "b")


@pytest.mark.parametrize(
    "key", ["value", "unit", "where", "better", "tolerance", "reason", "test", "profiles"]
)
def test_a_missing_key_is_refused_by_name(key: str) -> None:
    lines = [line for line in ENTRY.splitlines() if not line.startswith(key)]
    with pytest.raises(ValueError, match=rf"table9\.net\.error.*lacks.*{key}"):
        paper.parse("\n".join(lines))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tolerence = 1", "unknown tolerence"),
        ("rows = []", "rows must list at least one"),
        ("rows = [3]", "rows must be text"),
        ("note = 3", "note must be text"),
        ("others = [3]", r"others\] in paper.toml is 3, not a table"),
        ("others = [{ value = 1 }]", "lacks source, setting"),
    ],
)
def test_an_unknown_or_wrong_key_is_refused_by_name(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paper.parse(ENTRY + line)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"lower"', '"smaller"', "Choose one of lower, higher"),
        ("0.1", "-0.1", "tolerance must be a number of at least 0"),
        ("0.1", "nan", "tolerance must be a number"),
        ("1.5", "true", "value must be a number"),
        ("1.5", '"O(L)"', "unknown better, profiles, test, tolerance, unit"),
        ('"prediction"', '"eye"', "test is 'eye'. Choose one of prediction, exact, none"),
        ('["paper"]', '["long"]', "profiles is 'long'. Choose one of paper, short, quick"),
        ('["paper"]', '"paper"', "profiles must be a list"),
    ],
)
def test_a_wrong_value_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paper.parse(ENTRY.replace(old, new, 1))


def test_two_numbers_for_one_row_of_ours_are_refused() -> None:
    twin = ENTRY.replace("table9.net", "table9.other") + 'rows = ["net"]'
    with pytest.raises(ValueError, match="'net' is given two values of error"):
        paper.parse(ENTRY + twin)


def test_a_bare_value_in_place_of_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[table9\.net\] in paper\.toml is 3, not a table"):
        paper.parse("[table9]\nnet = 3")


def test_reruns_by_others_stand_beside_the_number() -> None:
    others = paper.number("table1", "odenet", "test_error").others
    assert {0.57, 0.58, 0.5, 0.83} == {rerun.value for rerun in others}
    assert all(rerun.source and rerun.setting for rerun in others)


def test_every_published_number_has_a_place_and_a_reason() -> None:
    published = paper.published()
    assert {n.experiment for n in published} == {
        "table1", "table2", "fig3", "fig4", "ablations", "tolerances", "decay",
        "adaptive_error", "resnet_euler", "adjoint_jumps", "reverse_mode", "adjoint_toy",
        "bullet", "springs", "toy_field",
    }  # fmt: skip
    assert len({n.name for n in published}) == len(published)
    for number in published:
        assert number.where
        assert isinstance(number.value, str) or number.reason.endswith(".")


def test_what_a_shorter_training_is_judged_by_judges_the_papers_own_too() -> None:
    judged = [set(n.profiles) for n in paper.published() if n.profiles]
    assert judged
    assert all("paper" in profiles for profiles in judged if "short" in profiles)


def test_figure_3_has_a_value_for_every_tolerance_and_panel() -> None:
    tolerances = {f"tolerance_{t}" for t in ("1", "1e-1", "1e-2", "1e-3", "1e-4", "1e-5")}
    for metric in ("nfe_forward", "numerical_error", "relative_time", "nfe_backward", "nfe_ratio"):
        rows = {n.row for n in paper.numbers("fig3") if n.metric == metric}
        assert tolerances <= rows, metric


def test_text_says_why_it_is_not_judged_where_the_paper_did_measure() -> None:
    assert all(n.reason.endswith(".") for n in paper.numbers("fig4"))
    assert not paper.number("table1", "odenet", "memory").reason


def test_table_2_has_its_six_values_and_their_ratios() -> None:
    values = {n.name: n.value for n in paper.numbers("table2")}
    assert values["table2.rnn_30.rmse"] == 0.3937
    assert values["table2.latent_ode_100.rmse"] == 0.1346
    assert len(values) == 9
    for points in (30, 50, 100):
        ratio = values[f"table2.rnn_{points}.rmse"] / values[f"table2.latent_ode_{points}.rmse"]
        assert values[f"table2.advantage_{points}.advantage"] == round(ratio, 2)


def test_the_tolerances_of_section_6_are_those_of_our_configurations() -> None:
    sequences = paper.number("tolerances", "sequence", "tolerance").value
    config = yaml.safe_load((resources.files("reproduce") / "configs/latent_ode.yaml").read_text())
    solver = config["model"]["init_args"]["solver"]
    assert solver["rtol"] == solver["atol"] == sequences
    published = paper.number("tolerances", "classification", "tolerance").value
    for name in ("odenet", "rknet", "timeless_field"):
        config = yaml.safe_load(
            (resources.files("reproduce") / f"configs/{name}.yaml").read_text()
        )
        solver = config["model"]["init_args"]["solver"]
        assert solver["rtol"] == solver["atol"] == published
    published = paper.number("tolerances", "density", "tolerance").value
    for name in ("fig4_cnf", "fig5_cnf", "ffjord"):
        config = yaml.safe_load(
            (resources.files("reproduce") / f"configs/{name}.yaml").read_text()
        )
        solver = config["model"]["init_args"]["solver"]
        assert solver["rtol"] == solver["atol"] == published
