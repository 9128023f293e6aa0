"""The door under load: requests a second of each candidate, in turns, and what they are of one another."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import bodies, filling, load
from bench.load import Load
from bench.servers import Candidate, Machine, OpenRemedy, cpu_seconds, machine
from cast import sign
from services import until

ALERTS = 50  # of a body of Alertmanager
OPEN = 200  # incidents that repeats are of
SHARE = 0.7  # of the capacity measured just before
# What is held against each other stands side by side: the machine's speed swings within a round, too.
ORDER = ("alerta", "bare", "filled", "unique", "repeats", "alertmanager", "alerta_prometheus")
QUIET = 0.02  # seconds of processor in a tenth of a second, of a candidate that has nothing left to do
HUNG_AFTER = 1.0  # seconds that a hung Redis may cost


@dataclass(frozen=True)
class Contender:
    """Something to post to a candidate. `guess`: requests a second it may reach, for as many are made beforehand.

    `longer`: how many times as long it is measured. What is begun and not answered in the end counts for nothing, and
    where an answer takes seconds that is a tenth of it.
    """

    candidate: Candidate
    requests: Callable[[], Iterator[bytes]]
    guess: int
    longer: int = 1


def measured(rounds: int, seconds: float, rows: int, alerta: bool) -> dict[str, Any]:
    """All figures of the door; `rows` incidents fill the database that is compared with the empty one."""
    with tempfile.TemporaryDirectory(prefix="openremedy-bench-") as name, machine(Path(name)) as one:
        contenders = _contenders(one, rows, alerta)
        found: dict[str, Any] = {"requests_a_second": {}, "cpu_micros_a_request": {}, "p99_ms": {}}
        loads = _in_turns(one, contenders, rounds, seconds)
        for key, runs in loads.items():
            found["requests_a_second"][key] = spread([run.rate for run, _ in runs])
            found["p99_ms"][key] = spread([run.p99 for run, _ in runs])
            found["cpu_micros_a_request"][key] = {
                part: round(statistics.median(cpu[part] for _, cpu in runs)) for part in runs[0][1]
            }
        found["ratios"] = _ratios({key: [run.rate for run, _ in runs] for key, runs in loads.items()})
        found["open_loop"] = _open_loop(one, contenders["unique"], rounds, seconds)
        found["redis_hung"] = _hung(one, contenders["unique"], rounds, seconds)
        return found


def spread(values: list[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


# ---------------------------------------------------------------- who takes part


def _contenders(one: Machine, rows: int, alerta: bool) -> dict[str, Contender]:
    bare, ours, filled = one.bare(), one.openremedy(), one.openremedy("filled")
    filling.fill(filled.database, rows, 5 * rows)
    numbers = bodies.unique()
    repeats = [canonical(ours, number) for number in itertools.islice(numbers, OPEN)]
    found = {
        "bare": Contender(bare, lambda: (load.raw_request("/", bodies.canonical(n), {}) for n in numbers), 9000),
        "unique": Contender(ours.candidate, lambda: (canonical(ours, n) for n in numbers), 3000),
        "filled": Contender(filled.candidate, lambda: (canonical(filled, n) for n in numbers), 3000),
        "repeats": Contender(ours.candidate, lambda: itertools.cycle(repeats), 3000),
        "alertmanager": Contender(ours.candidate, lambda: _alertmanager(ours, numbers), 600),
    }
    if alerta:
        other = one.alerta()
        path = "/webhooks/prometheus"
        found["alerta"] = Contender(
            other, lambda: (load.raw_request("/alert", bodies.alerta(n), {}) for n in numbers), 600
        )
        found["alerta_prometheus"] = Contender(
            other, lambda: (load.raw_request(path, body, {}) for body in _bodies(numbers)), 60, longer=4
        )
    return {name: found[name] for name in ORDER if name in found}


def canonical(ours: OpenRemedy, number: int) -> bytes:
    """A signed post to the canonical endpoint."""
    body = bodies.canonical(number)
    signature = {"X-OpenRemedy-Signature": sign(ours.stack.secret, body)}
    return load.raw_request(f"/api/v1/webhooks/alerts/{ours.stack.slug}", body, signature)


def _bodies(numbers: Iterator[int]) -> Iterator[bytes]:
    while True:
        yield bodies.alertmanager(numbers, ALERTS)


def _alertmanager(ours: OpenRemedy, numbers: Iterator[int]) -> Iterator[bytes]:
    path = f"/api/v1/webhooks/alertmanager/{ours.stack.slug}"
    token = {"Authorization": f"Bearer {ours.tokens['alertmanager']}"}
    return (load.raw_request(path, body, token) for body in _bodies(numbers))


# ---------------------------------------------------------------- rounds


def _in_turns(
    one: Machine, contenders: dict[str, Contender], rounds: int, seconds: float
) -> dict[str, list[tuple[Load, dict[str, float]]]]:
    """Each in turn, round after round: the machine's mood of a minute is the same for all. The first warms up."""
    found: dict[str, list[tuple[Load, dict[str, float]]]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            run = _run(one, contender, seconds if number else min(seconds, 4))
            if number:
                found[name].append(run)
                print(f"round {number}: {name} {run[0].rate:.0f}/s, p99 {run[0].p99:.0f} ms", flush=True)
    return found


def _run(one: Machine, contender: Contender, seconds: float) -> tuple[Load, dict[str, float]]:
    file = one.folder / "requests"
    seconds *= contender.longer
    load.prepare(file, itertools.islice(contender.requests(), int(contender.guess * seconds)))
    watched = {"app": contender.candidate.pid, "postgresql": one.postgres.pid, "redis": one.redis.pid}
    before = {name: cpu_seconds([pid]) for name, pid in watched.items()}
    run = load.as_fast_as_possible(contender.candidate.url, file, seconds)
    used = {name: (cpu_seconds([pid]) - before[name]) / run.requests * 1e6 for name, pid in watched.items()}
    _let_finish(contender.candidate)
    return run, used


def _let_finish(candidate: Candidate) -> None:
    """What the sender no longer waits for is still worked on; with a slow candidate for seconds, and into the next."""

    def quiet() -> bool:
        before = cpu_seconds([candidate.pid])
        time.sleep(0.1)
        return cpu_seconds([candidate.pid]) - before < QUIET

    until(quiet, f"{candidate.name} has answered all", 60)


def _ratios(rates: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Round by round: of what was measured in the same minute."""
    pairs = {
        "unique / bare": ("unique", "bare"),
        "repeats / unique": ("repeats", "unique"),
        "filled / empty": ("filled", "unique"),
        "unique / alerta": ("unique", "alerta"),
        "alertmanager / alerta": ("alertmanager", "alerta_prometheus"),
    }
    return {
        name: spread([a / b for a, b in zip(rates[mine], rates[theirs], strict=True)])
        for name, (mine, theirs) in pairs.items()
        if mine in rates and theirs in rates
    }


def _open_loop(one: Machine, contender: Contender, rounds: int, seconds: float) -> dict[str, Any]:
    """Latencies at a part of the capacity of that very minute: that of ten minutes ago may be twice as much."""
    runs = []
    for _ in range(rounds):
        rate = SHARE * _run(one, contender, seconds)[0].rate
        runs.append((rate, load.at_a_rate(contender.candidate.port, contender.requests(), rate, seconds + 1)))
    return {
        "offered_a_second": spread([rate for rate, _ in runs]),
        "p50_ms": spread([run.p50 for _, run in runs]),
        "p99_ms": spread([run.p99 for _, run in runs]),
    }


def _hung(one: Machine, contender: Contender, rounds: int, seconds: float) -> dict[str, Any]:
    """Healthy and hung in turn, the hung one from a second after its beginning on.

    Twice as many pairs, half as long: what it is about is less than what this machine's speed swings by in ten seconds.
    """
    healthy, hung = [], []
    bout = max(seconds / 2, 1)
    for _ in range(2 * rounds):
        healthy.append(_run(one, contender, bout)[0].rate)
        with one.redis.paused():
            _run(one, contender, HUNG_AFTER)
            hung.append(_run(one, contender, bout)[0].rate)
        time.sleep(1)
    return {
        "healthy": spread(healthy),
        "hung": spread(hung),
        "ratio": spread([b / a for a, b in zip(healthy, hung, strict=True)]),
    }
