"""What the tables of classifiers share: how long a run trained, in words."""

from reproduce.classification import budget as budget_of


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
