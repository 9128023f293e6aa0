"""The week before now as a list of events: drawn from a seed, oldest first, and nothing has happened yet. Pure."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain

from openremedy.demo import world
from openremedy.demo.bodies import Told, Trouble, values
from openremedy.demo.world import CRON, DATADOG, EU, GRAFANA, PAGERDUTY, US, Person, Problem, Tool

DAYS = 7
SETTLED = 132
FLAPPING = 5
# Hours ago that what is open now began: more of it lately.
OPEN = (0.1, 0.4, 0.9, 1.6, 2.4, 3.7, 6.5, 11, 26, 67)
UNCLEAR = (0.6, 2.1, 5.2, 9.3)
UNCLEAR_BEFORE = (30, 39, 52, 75, 101, 124, 140, 160)
LEFT = 14  # hours ago; what nobody has looked at since then waits for whoever opens the demo
# What was wrong with it, and hours ago.
REFUSED: Mapping[str, tuple[float, ...]] = {
    "unsigned": (150, 26, 7.6),
    "reserialised": (118, 116, 3.2, 0.5),
    "base64": (143, 142.8),
    "old secret": (71, 47, 23.5, 11.4, 5.5),
    "newline": (99,),
    "prefix": (144,),
    "empty": (145,),
    "no JSON": (61,),
    "no host": (84, 33),
    "wrong token": (128, 20.4),
    "custom payload": (164,),
}
OF_A_TOOL = ("wrong token", "custom payload")
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Sent:
    """A tool posts what it has to tell."""

    told: tuple[Told, ...]


@dataclass(frozen=True)
class Beat:
    """A tool says that it lives."""

    tool: Tool


@dataclass(frozen=True)
class Tested:
    """Somebody presses the test button of a tool."""

    tool: Tool


@dataclass(frozen=True)
class Refused:
    """Something is wrong with what is sent: `how` names it, `told` is what it would have said."""

    how: str
    told: Told


@dataclass(frozen=True)
class Said:
    """A person acknowledges, resolves or `judge`s the verdict; or `look`s, and judges what waits for somebody."""

    who: Person
    what: str
    trouble: Trouble


@dataclass(frozen=True)
class Disabled:
    """A person disables a source."""

    tool: Tool


Act = Sent | Beat | Tested | Refused | Said | Disabled


@dataclass(frozen=True)
class Event:
    """An act and its time."""

    at: datetime
    act: Act


def week(seed: int, end: datetime) -> list[Event]:
    """What happened in the days before `end`, oldest first. The same seed and end give the same week."""
    plan = _Plan(random.Random(seed), end)  # nosec B311 # noqa: S311 - a story, no secret
    told = chain(
        plan.open(),
        plan.unclear(),
        plan.strange(),
        plan.outage(),
        plan.flapping(),
        plan.settled(),
        plan.heartbeats(),
        plan.tests(),
        plan.refusals(),
        plan.disabled(),
    )
    return sorted((event for event in told if event.at < end), key=lambda event: event.at)


class _Plan:
    def __init__(self, rng: random.Random, end: datetime) -> None:
        self.rng = rng
        self.end = end
        self.number = 0
        # What has trouble already, and when: two at once would be one incident.
        self.taken: dict[str, list[tuple[datetime, datetime]]] = {}

    def ago(self, hours: float) -> datetime:
        return self.end - timedelta(hours=hours)

    def soon(self, low: float, high: float) -> timedelta:
        return self.rng.uniform(low, high) * _MINUTE

    # ------------------------------------------------------------ troubles

    def trouble(self, tool: Tool, problem: Problem, began: datetime, host: str = "") -> Trouble:
        self.number += 1
        host = host or self.rng.choice(world.HOSTS[problem.hosts])
        return Trouble(self.number, tool, problem, host, began, values(self.rng, problem))

    def any_trouble(self, began: datetime, lasts: timedelta, tools: Sequence[Tool] = ()) -> Trouble:
        """One of the usual ones, of something that has none at that time nor within the hours around it."""
        weights = {tool: weight for tool, weight in world.WEIGHTS.items() if not tools or tool in tools}
        while True:
            (tool,) = self.rng.choices(list(weights), list(weights.values()))
            one = self.trouble(tool, self.rng.choice(world.USUAL[tool]), began)
            rest = timedelta(hours=2)
            around = (began - rest, began + lasts + rest)
            others = self.taken.setdefault(one.key, [])
            if all(end < around[0] or start > around[1] for start, end in others):
                others.append((began, began + lasts))
                return one

    def fires(self, one: Trouble, until: datetime | None = None) -> Iterator[Event]:
        """It is told at once, and again while it lasts; from an HA pair twice."""
        at = one.began + self.soon(0.2, 0.7)
        last = until or self.end
        for step in range(self.rng.choice((1, 1, 2, 3))):
            if at >= last:
                return
            yield Event(at, Sent((Told(one, "firing", at, step),)))
            if one.tool is US:
                yield Event(at + timedelta(seconds=2), Sent((Told(one, "firing", at, step),)))
            at += self.soon(6, 9) if one.tool is CRON else self.soon(25, 70)

    def ends(self, one: Trouble, at: datetime) -> Event:
        return Event(at, Sent((Told(one, "resolved", at),)))

    # ------------------------------------------------------------ what is open now

    def open(self) -> Iterator[Event]:
        for number, hours in enumerate(OPEN):
            one = self.any_trouble(self.ago(hours), timedelta(hours=hours))
            yield from self.fires(one)
            if number % 3 == 2 or number > 6:
                yield Event(one.began + self.soon(3, 11), self.person(one, "acknowledge"))

    def person(self, one: Trouble, what: str) -> Act:
        return Said(self.rng.choice((world.RUBEN, world.RUBEN, world.ADA)), what, one)

    def unclear(self) -> Iterator[Event]:
        for number, hours in enumerate(UNCLEAR + UNCLEAR_BEFORE):
            tool, problem = world.UNCLEAR[number % len(world.UNCLEAR)]
            hosts = world.HOSTS[problem.hosts]
            one = self.trouble(tool, problem, self.ago(hours), hosts[number // len(world.UNCLEAR) % len(hosts)])
            over = one.began + self.soon(90, 300) if hours > LEFT else None
            yield from self.fires(one, over)
            if over:
                yield Event(one.began + self.soon(9, 40), self.person(one, "look"))
                yield self.ends(one, over)

    def strange(self) -> Iterator[Event]:
        """Text that talks to a model; and what burns on although somebody has closed it."""
        injected = self.trouble(EU, world.INJECTION, self.ago(1.3), "edge-02")
        yield from self.fires(injected)
        burning = self.any_trouble(self.ago(8), timedelta(hours=8), (DATADOG,))
        yield Event(burning.began, Sent((Told(burning, "firing", burning.began),)))
        yield Event(self.ago(6.2), Said(world.RUBEN, "resolve", burning))
        yield Event(self.ago(3), Sent((Told(burning, "firing", self.ago(3), 1),)))

    # ------------------------------------------------------------ what is over

    def outage(self) -> Iterator[Event]:
        """A rack: one notification with several hosts."""
        began = self.ago(49)
        hosts = world.HOSTS[world.OUTAGE.hosts]
        rack = [self.trouble(US, world.OUTAGE, began, host) for host in hosts]
        over = began + timedelta(minutes=27)
        at = began + _MINUTE
        yield Event(at, Sent(tuple(Told(one, "firing", at) for one in rack)))
        yield Event(over, Sent(tuple(Told(one, "resolved", over) for one in rack)))
        yield from (Event(at + self.soon(2, 6), Said(world.ADA, "acknowledge", one)) for one in rack[:3])
        yield from (Event(over + self.soon(2, 9), Said(world.ADA, "look", one)) for one in rack)

    def flapping(self) -> Iterator[Event]:
        """The last of them flaps just now."""
        for hours in (131, 92, 57, 21, 0.75)[:FLAPPING]:
            first = self.any_trouble(self.ago(hours), timedelta(hours=1), (EU,))
            began = first.began
            for number in range(3 if hours < 1 else 4):
                one = self.trouble(EU, first.problem, began, first.host)
                yield Event(began, Sent((Told(one, "firing", began),)))
                over = began + self.soon(3, 6)
                if hours > 1 or number < 2:
                    yield self.ends(one, over)
                began = over + self.soon(4, 7)

    def settled(self) -> Iterator[Event]:
        for number in range(SETTLED):
            began = self.ago(self.long_ago(number))
            lasts = min(self.soon(9, 150), (self.end - began) * 0.7)
            one = self.any_trouble(began, lasts)
            yield from self.fires(one, began + lasts)
            yield from self.looked_after(one, began + lasts)

    def long_ago(self, number: int) -> float:
        """Hours: a quarter within the last day, most of that lately."""
        if number % 4:
            return self.rng.uniform(24, DAYS * 24 - 1)
        return 1.0 + 23 * self.rng.random() ** 2

    def looked_after(self, one: Trouble, over: datetime) -> Iterator[Event]:
        """Half of what happens somebody looks at; a script's often ends by hand."""
        at = one.began + min(self.soon(2, 9), (over - one.began) / 3)
        if one.tool is PAGERDUTY:
            yield Event(at, Sent((Told(one, "acknowledged", at),)))
            yield Event(at + self.soon(1, 2), Sent((Told(one, self.rng.choice(("note", "urgent")), at + _MINUTE),)))
        elif self.rng.random() < 0.4:
            yield Event(at, self.person(one, "acknowledge"))
        if self.rng.random() < 0.12:
            yield Event(at + self.soon(1, 4), self.person(one, "judge"))
        if self.end - one.began > timedelta(hours=LEFT):
            yield Event(at + self.soon(3, 20), self.person(one, "look"))
        if one.tool is CRON and self.rng.random() < 0.4:
            yield Event(over, self.person(one, "resolve"))
        else:
            yield self.ends(one, over)

    # ------------------------------------------------------------ what is no trouble

    def heartbeats(self) -> Iterator[Event]:
        for tool in world.SOURCES:
            hours = tool.last_beat
            while tool.beat and hours < DAYS * 24:
                yield Event(self.ago(hours), Beat(tool))
                hours += tool.beat

    def tests(self) -> Iterator[Event]:
        for hours, tool in ((166, GRAFANA), (165.5, PAGERDUTY), (163, DATADOG), (28, DATADOG)):
            yield Event(self.ago(hours), Tested(tool))

    def disabled(self) -> Iterator[Event]:
        for tool in world.SOURCES:
            if tool.off:
                yield Event(self.ago(tool.off), Disabled(tool))
                one = self.trouble(tool, world.USUAL[tool][0], self.ago(tool.off + 30), "nas-01")
                yield from self.fires(one, one.began + 20 * _MINUTE)
                yield self.ends(one, one.began + 40 * _MINUTE)
                for hours in range(4, int(tool.off), 11):
                    yield Event(self.ago(hours), Refused("disabled", Told(one, "firing", self.ago(hours))))

    def refusals(self) -> Iterator[Event]:
        for how, times in REFUSED.items():
            tool = EU if how in OF_A_TOOL else CRON
            for hours in times:
                one = self.trouble(tool, world.USUAL[tool][0], self.ago(hours))
                yield Event(one.began, Refused(how, Told(one, "firing", one.began)))
