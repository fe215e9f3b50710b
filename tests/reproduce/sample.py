"""A row of results, for tests that need one or make others of it."""

from reproduce.records import Record

ROW = Record(
    experiment="table1",
    row="odenet",
    metric="test_error",
    value=0.42,
    unit="%",
    seed=0,
    profile="short",
    protocol=1,
    budget="3 epochs",
    overrides="",
    device="cpu, 2 threads",
    run="0123456789ab",
)
