"""Limits counted in bundles: who is far from a large limit does not cost a turn to Redis with every request.

A process takes a thousandth of the limit at once, at most a hundred, and hands it out by itself. Near the limit, where
a bundle does not fit any more, every hit is counted by itself, so nobody is refused early. What a process has taken and
not handed out yet is all by which a count can be wrong, and it is thrown away after the limit's own time.
"""

import threading
import time
from collections import OrderedDict

from limits import RateLimitItem
from limits.strategies import STRATEGIES, MovingWindowRateLimiter

NAME = "bundled-moving-window"
KEY_PREFIX = "openremedy-v1"  # changing the strategy on a live Redis gives WRONGTYPE: then raise this version
SHARE = 1000  # a bundle is this part of the limit: of 2,000 on there is something to bundle
LARGEST = 100
KEPT = 10_000  # callers


Caller = tuple[object, ...]  # the limit and what tells its callers apart


class BundledMovingWindow(MovingWindowRateLimiter):
    """The moving window of `limits`, with a stock of hits for each caller."""

    def __init__(self, storage: object) -> None:
        super().__init__(storage)  # type: ignore[arg-type]  # whatever flask-limiter made
        self._stock: OrderedDict[Caller, tuple[int, float]] = OrderedDict()
        self._lock = threading.Lock()

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """As the strategy it is made of. Raises what the storage raises."""
        bundle = min(item.amount // SHARE, LARGEST)
        if cost != 1 or bundle < 2:
            return super().hit(item, *identifiers, cost=cost)
        if self.in_stock(item, *identifiers):
            return True
        if super().hit(item, *identifiers, cost=bundle):
            self._keep((item, *identifiers), bundle - 1, time.time() + item.get_expiry())
            return True
        return super().hit(item, *identifiers)

    def in_stock(self, item: RateLimitItem, *identifiers: str) -> bool:
        """Take a hit out of the stock, if there is one."""
        key = (item, *identifiers)
        with self._lock:
            left, until = self._stock.get(key, (0, 0.0))
            if left < 1 or time.time() >= until:
                return False
            self._stock[key] = left - 1, until
            return True

    def _keep(self, key: Caller, left: int, until: float) -> None:
        """Two threads may take a bundle at once: both are kept."""
        with self._lock:
            before, _ = self._stock.pop(key, (0, 0.0))
            self._stock[key] = before + left, until
            while len(self._stock) > KEPT:
                self._stock.popitem(last=False)


STRATEGIES[NAME] = BundledMovingWindow
