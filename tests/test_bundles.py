"""Large limits are counted in bundles: how often the storage is asked, and that nobody gets more or less by it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import time_machine
from limits import parse
from limits.storage import MemoryStorage

from openremedy import bundles
from openremedy.bundles import BundledMovingWindow


class Counting(MemoryStorage):
    """Counts the turns to it."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[int] = []

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        self.turns.append(amount)
        return super().acquire_entry(key, limit, expiry, amount)


@pytest.fixture
def storage() -> Iterator[Counting]:
    one = Counting()
    yield one
    one.reset()


def test_a_small_limit_is_counted_hit_by_hit(storage: Counting) -> None:
    limit, strategy = parse("60 per minute"), BundledMovingWindow(storage)
    assert [strategy.hit(limit, "a") for _ in range(61)] == [True] * 60 + [False]
    assert storage.turns == [1] * 61


def test_a_large_one_takes_a_turn_per_bundle(storage: Counting) -> None:
    limit, strategy = parse("5000 per minute"), BundledMovingWindow(storage)
    assert all(strategy.hit(limit, "a") for _ in range(100))
    assert storage.turns == [5] * 20


def test_a_bundle_is_never_larger_than_a_hundred(storage: Counting) -> None:
    limit, strategy = parse("100000000 per minute"), BundledMovingWindow(storage)
    assert all(strategy.hit(limit, "a") for _ in range(250))
    assert storage.turns == [100] * 3


def test_one_process_is_let_in_to_the_last_hit_and_no_further(storage: Counting) -> None:
    limit, strategy = parse("4999 per minute"), BundledMovingWindow(storage)
    found = [strategy.hit(limit, "a") for _ in range(5100)]
    assert found == [True] * 4999 + [False] * 101


def test_several_processes_together_are_wrong_by_no_more_than_what_they_keep(storage: Counting) -> None:
    limit = parse("4000 per minute")
    processes = [BundledMovingWindow(storage) for _ in range(3)]
    found = sum(one.hit(limit, "a") for _ in range(2000) for one in processes)
    assert 4000 - 3 * 4 <= found <= 4000


def test_callers_do_not_share_a_stock(storage: Counting) -> None:
    limit, strategy = parse("2000 per minute"), BundledMovingWindow(storage)
    assert strategy.hit(limit, "a")
    assert strategy.hit(limit, "b")
    assert storage.turns == [2, 2]


def test_what_is_kept_goes_with_the_time_of_the_limit(storage: Counting) -> None:
    limit, strategy = parse("100000 per minute"), BundledMovingWindow(storage)
    with time_machine.travel(0, tick=False) as clock:
        assert strategy.hit(limit, "a")
        clock.shift(61)
        assert strategy.hit(limit, "a")
    assert storage.turns == [100, 100]


def test_a_cost_of_its_own_is_not_bundled(storage: Counting) -> None:
    limit, strategy = parse("100000 per minute"), BundledMovingWindow(storage)
    assert strategy.hit(limit, "a", cost=7)
    assert storage.turns == [7]


def test_callers_that_are_not_heard_of_are_forgotten(storage: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "KEPT", 2)
    limit, strategy = parse("100000 per minute"), BundledMovingWindow(storage)
    for caller in "abca":
        strategy.hit(limit, caller)
    assert storage.turns == [100] * 4


def test_threads_hand_out_a_bundle_once(storage: Counting) -> None:
    limit, strategy = parse("5000 per minute"), BundledMovingWindow(storage)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: strategy.hit(limit, "a"), range(6000))) == 5000
