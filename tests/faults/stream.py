"""Alerts at a steady rate through all intakes, each with a number of its own, each sent again until it is taken."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import requests

from faults.senders import INTAKES, Message, Tenant, message

AT_ONCE = 48  # senders; a fault holds many of them up
TIMEOUT = 20  # seconds a sender waits for an answer
PATIENCE = 120  # seconds a sender goes on trying
PAUSE = 1.0  # seconds between two tries
REPEATED = 7  # every so many is sent a second time


@dataclass
class Record:
    """What the senders saw."""

    sent: set[int] = field(default_factory=set)
    accepted: dict[int, str] = field(default_factory=dict)  # number: its tenant
    tries: Counter[int] = field(default_factory=Counter)  # by number
    taken: Counter[int] = field(default_factory=Counter)  # those of them that were accepted
    incidents: dict[int, set[str]] = field(default_factory=dict)  # number: what the answers called its incident
    answers: Counter[str] = field(default_factory=Counter)  # status, or the class of the exception
    given_up: list[int] = field(default_factory=list)
    first_after: float | None = None  # when the first was accepted after `marked`
    marked: float = float("inf")

    @property
    def refused(self) -> int:
        """Tries that were not accepted."""
        return self.answers.total() - self.answers["202"]

    def undocumented(self, documented: tuple[int, ...]) -> dict[str, int]:
        """Answers that no fault excuses."""
        allowed = {str(status) for status in documented}
        return {name: count for name, count in self.answers.items() if name[0].isdigit() and name not in allowed}


class Stream:
    """Posts `rate` alerts a second until it is stopped."""

    def __init__(self, url: str, tenants: Sequence[Tenant], numbers: "itertools.count[int]", rate: float) -> None:
        self.url = url
        self.tenants = tenants
        self.record = Record()
        self._numbers = numbers
        self._rate = rate
        self._lock = threading.Lock()
        self._local = threading.local()
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> Record:
        """Send nothing new, wait until all that was sent is taken, and return what was seen."""
        self._stopped.set()
        self._thread.join()
        self._pool.shutdown()
        return self.record

    def mark(self) -> None:
        """The fault is over now."""
        self.record.marked = time.monotonic()

    def _run(self) -> None:
        began = time.monotonic()
        for sent in itertools.count():
            due = began + sent / self._rate
            if self._stopped.wait(max(0.0, due - time.monotonic())):
                return
            number = next(self._numbers)
            self.record.sent.add(number)
            self._pool.submit(self._deliver, number)
            if number % REPEATED == 0:
                self._pool.submit(self._deliver, number)

    def _deliver(self, number: int) -> None:
        tenant = self.tenants[number % len(self.tenants)]
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            wanted = message(INTAKES[number % len(INTAKES)], number, tenant)
            if self._post(number, tenant.slug, wanted):
                return
            time.sleep(PAUSE)
        with self._lock:
            self.record.given_up.append(number)

    def _post(self, number: int, slug: str, wanted: Message) -> bool:
        headers = {"Content-Type": "application/json", **wanted.headers}
        with self._lock:
            self.record.tries[number] += 1
        try:
            answer = self._session().post(self.url + wanted.path, wanted.body, headers=headers, timeout=TIMEOUT)
            said, told = str(answer.status_code), answer.json() if answer.status_code == 202 else {}
            if said == "503" and "Retry-After" not in answer.headers:
                said = "503 without Retry-After"
        except requests.RequestException as error:
            said, told = type(error).__name__, {}
        with self._lock:
            self.record.answers[said] += 1
            if said != "202":
                return False
            self.record.accepted[number] = slug
            self.record.taken[number] += 1
            opened = {one["incident_id"] for one in told.get("alerts", [told])}
            self.record.incidents.setdefault(number, set()).update(opened)
            if self.record.first_after is None and time.monotonic() > self.record.marked:
                self.record.first_after = time.monotonic()
        return True

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        found: requests.Session = self._local.session
        return found
