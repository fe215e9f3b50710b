"""What the tables of classifiers share: how long a run trained, in words, and their figure."""

from reproduce.classification import budget as budget_of
from reproduce.classification import plot
from reproduce.records import Record


def test_the_budget_says_which_part_of_an_epoch_was_trained() -> None:
    def budget(batches: float | int, epochs: int = 1) -> str:
        return budget_of(
            {
                "trainer": {"max_epochs": epochs, "limit_train_batches": batches},
                "data": {"init_args": {"batch_size": 128}},
                "model": {"init_args": {"schedule": {"name": "one_cycle"}}},
            }
        )

    assert budget(300) == "0.64 of an epoch (300 batches), batch 128, one cycle"
    assert budget(1.0) == "1 epoch, batch 128, one cycle"
    assert budget(1.0, 160) == "160 epochs, batch 128, one cycle"
    assert budget(0.5, 2) == "2 times 0.5 of an epoch (234 batches), batch 128, one cycle"


def test_seeds_that_err_alike_have_marks_that_are_all_seen() -> None:
    rows = [
        Record(
            experiment="table1",
            row=row,
            metric=metric,
            value=value,
            unit="",
            seed=seed,
            profile="short",
            protocol=1,
            budget="3 epochs",
            overrides="",
            device="cpu",
            run=f"{seed:012x}",
        )
        for row in ("resnet", "odenet")
        for seed in range(12)
        for metric, value in (("test_error", 0.5), ("parameters", 6e5))
    ]
    left, _ = plot(rows, ("resnet", "odenet"), "Table 1").axes
    places: list[set[float]] = [
        {round(float(y), 6) for y in line.get_ydata()} for line in left.lines[::2]
    ]
    assert [len(place) for place in places] == [12, 12]
    assert max(places[0]) < min(places[1])  # and each stays in its row
