"""Compiled loops: the memory they ask for and keep, and where they are taken from."""

import math
import re
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache, run_and_get_code

from lightning_modules.solvers.compiled import inductor, steady
from lightning_modules.solvers.compiled.keeping import kept
from lightning_modules.solvers.compiled.products import SMALL


def going(left: Tensor, *_: Tensor) -> Tensor:
    return left > 0


def eagerly(
    turn: Callable[..., list[Tensor]], state: list[Tensor], *given: Tensor
) -> list[Tensor]:
    """Do turn after turn in Python, as long as there is anything left."""
    while going(*state):
        state = turn(*state, *given)
    return state


def test_a_turn_of_a_loop_asks_for_memory_only_for_what_it_leaves() -> None:
    def turn(left: Tensor, y: Tensor, weight: Tensor) -> list[Tensor]:
        return [left - 1, (y @ weight).tanh() @ weight.t()]

    def compiled() -> Any:
        return inductor.compiled_loop(going, turn, [left, y], [weight], nn.Identity())

    torch.manual_seed(0)
    left, y, weight = torch.tensor(3.0), torch.randn(20, 3), 0.3 * torch.randn(3, 50)
    with torch._inductor.config.patch(force_disable_caches=True):
        loop, codes = run_and_get_code(compiled)
    expected = eagerly(turn, [left, y], weight)
    for _ in range(2):  # the second time in memory that the first has left
        torch.testing.assert_close(list(loop(left, y, weight)), expected)
    (code,) = codes
    before, repeated = code.split("inductor_entry_impl(")[1].split("while (1) {")
    assert before.count("new char[") == 1
    assert "aoti_torch_empty_strided(" not in before
    repeated = repeated.split("output_handles[0]")[0]
    assert repeated.count("aoti_torch_empty_strided(") == 3  # both, and whether to go on


def test_a_loop_is_taken_from_the_disk_if_it_was_written_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A training in a process of its own does not write what the one before it has written."""

    def turn(left: Tensor, y: Tensor, weight: Tensor) -> list[Tensor]:
        return [left - 1, (y @ weight).tanh()]

    state, weight = [torch.tensor(2.0), torch.randn(3, 3)], torch.randn(3, 3)
    expected = turn(*turn(*state, weight), weight)
    with fresh_cache():
        for writers, told in (("these", "miss"), ("these", "hit"), ("others", "miss")):
            monkeypatch.setattr(inductor, "_writers", lambda writers=writers: writers)
            before = counters["inductor"].copy()
            loop = inductor.compiled_loop(going, turn, state, [weight], nn.Identity())
            torch.testing.assert_close(list(loop(*state, weight)), expected)
            found = counters["inductor"] - before
            assert found["fxgraph_cache_hit"] + found["fxgraph_cache_miss"] == 1
            assert found[f"fxgraph_cache_{told}"] == 1


def test_what_writes_loops_is_told_to_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    inductor._writers.cache_clear()
    before = inductor._writers()
    inductor._writers.cache_clear()
    monkeypatch.setattr(inductor, "SOURCES", ("another way", *inductor.SOURCES[1:]))
    assert inductor._writers() != before
    inductor._writers.cache_clear()


def test_without_sources_loops_are_compiled_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(inductor.SOURCES)
    assert inductor._source(math) is None
    monkeypatch.setattr(inductor, "SOURCES", (None, None))
    assert inductor._remembered() == {}


def test_what_a_library_reads_in_a_turn_is_there_in_the_next() -> None:
    def turn(left: Tensor, y: Tensor, weight: Tensor) -> list[Tensor]:
        return [left - 1, (y @ weight).tanh() @ weight.t().exp()]

    torch.manual_seed(0)
    side = round(SMALL ** (1 / 3)) + 1  # a larger product is the library's
    left, y, weight = torch.tensor(4.0), torch.randn(side, side), torch.randn(side, side) / 99
    with torch._inductor.config.patch(force_disable_caches=True):
        loop, (code,) = run_and_get_code(
            lambda: inductor.compiled_loop(going, turn, [left, y], [weight], nn.Identity())
        )
    repeated = code.split("while (1) {")[1]
    assert "aoti_torch_cpu_mm_out(" in repeated
    assert not re.search(r"graph_\d+_arg\d+_1\.reset\(\)", repeated)  # the next would crash
    expected = eagerly(turn, [left, y], weight)
    torch.testing.assert_close(list(loop(left, y, weight)), expected)


def test_what_is_gone_leaves_its_place_and_what_lives_keeps_its_own() -> None:
    random, room = Random(0), steady.Room()
    living: dict[str, range] = {}
    for n in range(2000):
        if living and random.random() < 0.5:
            name = random.choice(list(living))
            room.leave(name)
            del living[name]
            continue
        need = random.choice([1, 64, 100, 3000])
        offset = room.take(f"buf{n}", need)
        assert offset is not None
        assert offset % steady.ALIGNED == 0
        assert offset + need <= room.size
        taken = range(offset, offset + need)
        assert all(x.stop <= taken.start or taken.stop <= x.start for x in living.values())
        living[f"buf{n}"] = taken
    assert room.size < 2000 * 64  # of 1,000 places, most were there already
    room.leave("another")  # has no place
    assert room.take("larger than all", steady.MOST_BYTES + 1) is None


def test_results_of_a_turn_take_the_place_of_those_before_them() -> None:
    def turn(left: Tensor, y: Tensor) -> list[Tensor]:
        for _ in range(8):
            y = kept(kept(y.sin()).cos())
        return [left - 1, y]

    state = [torch.tensor(3.0), torch.randn(1000)]
    with torch._inductor.config.patch(force_disable_caches=True):
        loop, (code,) = run_and_get_code(
            lambda: inductor.compiled_loop(going, turn, state, [], nn.Identity())
        )
    expected = eagerly(turn, state)
    torch.testing.assert_close(list(loop(*state)), expected)
    (size,) = re.findall(r"new char\[(\d+)\]", code)
    assert int(size) < 4 * 4096  # of 15 results two live at a time


@pytest.mark.parametrize("bytes_at_once", [steady.MOST_BYTES, 300, 0])
def test_what_a_turn_leaves_is_not_overwritten_by_the_next(
    bytes_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a part of a larger result, or what was written in place, or read by a library."""
    monkeypatch.setattr(steady, "MOST_BYTES", bytes_at_once)

    def turn(left: Tensor, a: Tensor, b: Tensor, rows: Tensor) -> list[Tensor]:
        a = a.cos() + b.sum()
        both = torch.cat([a, b.sin(), a.exp(), b, *[a + i for i in range(8)]])
        return [left - 1, a, b + both.sort().values[:7], rows.index_put((left.long(),), a.sum())]

    torch.manual_seed(0)
    state = [torch.tensor([3.0]), torch.randn(9), torch.randn(7), torch.zeros(4)]
    with torch._inductor.config.patch(force_disable_caches=True):
        loop = inductor.compiled_loop(
            lambda left, *_: left[0] > 0, turn, state, [], nn.Identity(), first=turn
        )
    for turns in (3, 1, 3):  # one is the first, without a turn of the loop
        start = [torch.tensor([float(turns)]), *state[1:]]
        expected = eagerly(turn, turn(*start))
        torch.testing.assert_close(list(loop(*start)), expected)
