"""The cascade of DESIGN 4 against the database: claim a batch, find each incident its verdict, store it."""

import asyncio
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Protocol, cast

import structlog
from sqlalchemy import Connection, Engine, Select, bindparam, func, insert, or_, select, tuple_
from sqlalchemy.exc import SQLAlchemyError

from openremedy import claims, meters, traces
from openremedy.alerts import Outcome
from openremedy.budget import BudgetSpent, Excess, Metered
from openremedy.claims import Claim, Turn
from openremedy.classifier import BadAnswer, Model, ModelAway, ask_model
from openremedy.classifier import rules as rule_tier
from openremedy.classifier.cause import cause_of
from openremedy.classifier.injection import suspicion
from openremedy.classifier.lexical import Index, Match, lexical_answer
from openremedy.classifier.objection import objection
from openremedy.classifier.prompt import PROMPT_VERSION
from openremedy.classifier.shapes import ANSWER_THRESHOLD, MODEL_THRESHOLD, Answer, Candidate, Citation, Recipe, Subject
from openremedy.classifier.verdict import recheck
from openremedy.examples import Answers, answers_of, examples_of
from openremedy.ids import new_id
from openremedy.incidents import subject_of
from openremedy.models import AlertRecord, Delivery, Tenant, TimelineEntry, Triage, Verdict, holds, now, table
from openremedy.models import Recipe as RecipeRow

log = structlog.get_logger()

PLACES = 64  # incidents in hand at once where there is no model to wait for
RUN_SECONDS = 20  # a job looks for more work no longer than this; then it queues the next one
BATCH = 32  # claimed at once: whoever comes in the meantime waits for no more than these to be looked at
BEGUN_AT_ONCE = 2  # calls, until the next look for what others sent
LOOK_SECONDS = 0.25  # between two looks for new work while calls are in flight
# A share of the places, on top of them, for tenants that have little in hand: slow calls of one do not hold them up.
SPARE_SHARE = 4
SPARE_SECONDS = 20  # so long after RUN_SECONDS a spare place may still be taken, while the last calls end
SUSPECT_SECONDS = 1  # in a row for incidents that are looked at alone, while the others wait
LEASE_MARGIN = 30  # seconds on top of the model's deadline
REUSE_HOURS = 24
# An incident whose evidence bears out no earlier verdict about its cause is a question of its own, but of a storm there
# may be thousands: the model is asked about one cause once in this time (docs/adr/0028).
CAUSE_REST = timedelta(hours=1)
EARLIER = 24  # verdicts about a cause that are held against an incident's evidence
SHORTLIST = 12
RUNNERS_UP = 3
EXAMPLES = 3  # earlier incidents that a person has answered, in a question to the model
MODEL_ATTEMPTS = 3  # in vain, until the lexical verdict is left alone
LONGEST_REST = timedelta(minutes=30)
CATALOGUES = 200  # tenants whose index a worker keeps
ACTOR = "classifier"


@dataclass(frozen=True)
class Terms:
    """What an admin chose for a tenant; `daily_tokens` None = as the installation has it."""

    model_allowed: bool = True
    threshold: float = ANSWER_THRESHOLD  # of the lexical tier
    model_threshold: float = MODEL_THRESHOLD
    daily_tokens: int | None = None

    @classmethod
    def chosen(cls, model_allowed: bool, threshold: float | None, daily_tokens: int | None) -> "Terms":
        """An admin's one threshold is that of every tier; without it each has its own."""
        if threshold is None:
            return cls(model_allowed, daily_tokens=daily_tokens)
        return cls(model_allowed, threshold, threshold, daily_tokens)

    def threshold_of(self, answer: Answer) -> float:
        return self.threshold_for("lexical" if answer.model is None else "model")

    def threshold_for(self, tier: str) -> float:
        return self.model_threshold if tier == "model" else self.threshold

    def tokens_a_day(self, installation: int) -> int:
        """The smaller of both limits; 0 = none."""
        return min((limit for limit in (self.daily_tokens, installation) if limit), default=0)


@dataclass(frozen=True)
class Catalogue:
    """The enabled recipes of a tenant at one version, their index, and the terms on which they are chosen."""

    version: int
    recipes: tuple[Recipe, ...]
    index: Index
    terms: Terms = Terms()
    answered: Answers = (0, 0)  # the answers of people that the index knows

    def rank(self, subject: Subject, without: str = "") -> tuple[Match, ...]:
        """Tier 3: the candidates, best first; `without`: the id of an incident whose answer is to be forgotten."""
        return self.index.rank(subject, SHORTLIST, without)

    def shortlist(self, ranked: Sequence[Match]) -> list[Recipe]:
        """The recipes a model may choose from, best first."""
        return [self.index.recipes[candidate.recipe] for candidate in ranked]

    def by_rules(self, subject: Subject) -> Answer | None:
        """Tier 1."""
        return rule_tier.match(subject, self.recipes)

    def by_words(self, subject: Subject, ranked: Sequence[Match]) -> Answer:
        """Tier 5."""
        return lexical_answer(subject, ranked, self.terms.threshold)


Key = tuple[int, str, int]  # of a tenant, a cause and the version of a catalogue
Earlier = Mapping[Key, Sequence[Any]]


@dataclass(frozen=True)
class Case:
    """One claimed incident with everything the tiers look at."""

    claim: Claim
    subject: Subject
    cause: str
    catalogue: Catalogue
    suspicion: str | None

    @property
    def tenant_id(self) -> int:
        return int(self.claim.incident["tenant_id"])

    @property
    def incident_id(self) -> uuid.UUID:
        return cast(uuid.UUID, self.claim.incident["id"])

    @property
    def key(self) -> Key:
        """Incidents with the same may take a verdict over from each other."""
        return self.tenant_id, self.cause, self.catalogue.version

    @cached_property
    def ranked(self) -> tuple[Match, ...]:
        """Once: the shortlist, the words' answer, the runners-up and the objection all look at it."""
        return self.catalogue.rank(self.subject)


@dataclass(frozen=True)
class Found:
    """An answer and how it is kept. `redo_at`: when a provisional one may be tried again; `in_vain`: the model was
    asked and this is not its answer; `cause_failed`: it would not answer others of this cause either.
    """

    answer: Answer
    reusable: bool = False
    provisional: bool = False
    redo_at: datetime | None = None
    in_vain: bool = False
    cause_failed: bool = False


@dataclass(frozen=True)
class Limits:
    """The settings the cascade needs."""

    llm_timeout: int
    llm_concurrency: int
    llm_daily_tokens: int
    model_name: str

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.llm_timeout + LEASE_MARGIN)


class Enrich(Protocol):
    """Asks an incident's tool about it."""

    def wants(self, claim: Claim) -> bool:
        """Whether there is anything to ask."""

    async def __call__(self, claim: Claim) -> Claim:
        """The incident with what the tool told."""


@dataclass(frozen=True)
class Decided:
    """A verdict to be stored; `reason`: why a person has to look, None when it stands by itself."""

    case: Case
    found: Found
    reason: str | None


Work = Coroutine[Any, Any, None]


class NotAllOurs(Exception):
    """An incident of a batch was taken from us meanwhile."""


class Classifier:
    """One per worker process; `model` is None when no model is configured. `enrich` may ask an incident's tool about it
    before it is classified. With `tenant_id` it looks at the incidents of this tenant alone.
    """

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        model: Model | None,
        enrich: Enrich | None = None,
        tenant_id: int | None = None,
    ) -> None:
        self._engine = engine
        self._enrich = enrich
        self._limits = limits
        self._model = model
        self._tenant_id = tenant_id
        self._catalogues: dict[int, Catalogue] = {}
        self._excess = Excess()

    @property
    def model(self) -> Model | None:
        """Whom it asks."""
        return self._model

    async def run(self) -> bool:
        """Classify until nothing is pending (False) or the time of a job is over (True: there may be more)."""
        end = time.monotonic() + RUN_SECONDS
        while time.monotonic() < end:
            await self._suspects(time.monotonic() + SUSPECT_SECONDS)
            await self._work(end)
            if not claims.waiting(self._engine, self._tenant_id):
                return False
            # Somebody else holds what waits: another worker, or an alert that is just being stored.
            await asyncio.sleep(0.05)
        return True

    async def _suspects(self, end: float) -> None:
        while time.monotonic() < end and (suspect := self._claim_suspect()):
            await self._one(suspect)

    def _claim_suspect(self) -> Claim | None:
        return claims.claim_suspect(self._engine, self._limits.lease, self._tenant_id)

    async def _work(self, end: float) -> None:
        """Fill every free place at once: a slow call holds up its own place and nobody else's incident."""
        ready: deque[Work] = deque()
        flying: set[asyncio.Task[None]] = set()
        in_time: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            while True:
                in_time = flying if time.monotonic() < end else in_time & flying
                claimed = self._claim(len(flying) + len(ready), time.monotonic() - end, ending=not in_time)
                ready += await self._begin(claimed)
                # Not all of them in a row: what comes before a call takes tens of milliseconds of a processor.
                flying |= {group.create_task(ready.popleft()) for _ in range(min(len(ready), BEGUN_AT_ONCE))}
                if not (flying or claimed):
                    return
                if flying:
                    pause = 0 if claimed or ready else LOOK_SECONDS
                    _, flying = await asyncio.wait(flying, timeout=pause, return_when=asyncio.FIRST_COMPLETED)

    def _claim(self, flying: int, late: float, *, ending: bool) -> list[Claim]:
        """What fits into the free places, and into the spare ones if it is of a tenant that has little in hand. When
        the time is over only the latter, and that while calls go on which were begun in time.
        """
        free = self.places - flying if late < 0 else 0
        if free > 0:
            return claims.claim(self._engine, min(free, BATCH), self._limits.lease, self._tenant_id)
        spare = self.places // SPARE_SHARE
        left = min(self.places + spare - flying, spare, BATCH)
        if left <= 0 or late >= (0 if ending else SPARE_SECONDS):
            return []
        return claims.claim(self._engine, left, self._limits.lease, self._tenant_id, most_in_hand=spare)

    @property
    def places(self) -> int:
        """How many incidents it holds at once."""
        return self._limits.llm_concurrency if self._model else PLACES

    async def _begin(self, claimed: Sequence[Claim]) -> list[Work]:
        """Decide what can be decided at once; what has to ask somebody is returned, to be awaited."""
        told: list[Claim] = []
        untold: list[Claim] = []
        for claim in claimed:
            (untold if self._enrich and self._enrich.wants(claim) else told).append(claim)
        work: list[Work] = []
        for part in _noisiest_last(told):
            try:
                work += await self._look(part)
            except Exception as error:  # what it was is found, and recorded, where each is looked at alone
                log.warning("classify.one_by_one", incidents=len(part), error=type(error).__name__)
                untold += part
        return [*work, *map(self._one, untold)]

    async def _one(self, claim: Claim) -> None:
        """One incident from its beginning to its end."""
        with self._edge(claim):
            for work in await self._look([await self._enrich(claim) if self._enrich else claim]):
                await work

    @contextmanager
    def _edge(self, claim: Claim) -> Iterator[None]:
        """The outermost edge of one incident: what breaks here is recorded on it and must not stop the others."""
        try:
            yield
        except Exception as error:  # the outermost edge: logged, and recorded on the incident
            log.exception("classify.failed", incident=str(claim.incident["id"]))
            self._fail(claim, type(error).__name__)

    def _fail(self, claim: Claim, reason: str) -> None:
        try:
            claims.fail(self._engine, claim, reason)
        except SQLAlchemyError as error:  # then the end of the lease gives the incident back
            log.error("classify.not_recorded", incident=str(claim.incident["id"]), error=type(error).__name__)

    # ------------------------------------------------------------ what is looked at

    async def _look(self, claimed: Sequence[Claim]) -> list[Work]:
        """Store the verdicts that need no model, all in one transaction; what has its turn to ask one is returned.

        All but the calls is done without a pause, so between two incidents those in flight may go on.
        """
        cases = await self._cases(claimed)
        earlier = self._earlier(cases)
        decided: list[Decided] = []
        undecided: list[Case] = []
        for case in cases:
            with self._edge(case.claim):
                found = self._without_model(case, earlier)
                if found:
                    decided.append(_decided(case, found))
                else:
                    undecided.append(case)
            await asyncio.sleep(0)
        work = await self._turns(undecided, decided)
        self._store(decided)
        return work

    async def _cases(self, claimed: Sequence[Claim]) -> list[Case]:
        catalogues: dict[int, Catalogue] = {}  # looked up once for all of a tenant
        cases = []
        for claim in claimed:
            with self._edge(claim):
                tenant_id = claim.incident["tenant_id"]
                if tenant_id not in catalogues:
                    catalogues[tenant_id] = self._catalogue(tenant_id)
                cases.append(self._case(claim, catalogues[tenant_id]))
            await asyncio.sleep(0)
        return cases

    def _case(self, claim: Claim, catalogue: Catalogue) -> Case:
        subject = subject_of(claim.incident)
        suspicious = suspicion(subject)
        cause = cause_of(subject)
        # Kept apart: what a text like that talked the model into is not taken over by honest incidents.
        cause = f"!{cause[1:]}" if suspicious else cause
        return Case(claim, subject, cause, catalogue, suspicious)

    def _catalogue(self, tenant_id: int) -> Catalogue:
        with self._engine.connect().execution_options(sqlite_readonly=True) as connection:
            version, terms = terms_of(connection, tenant_id)
            answered = answers_of(connection, tenant_id)
            known = self._catalogues.get(tenant_id)
            if known and (known.version, known.answered) == (version, answered):
                return known if known.terms == terms else replace(known, terms=terms)
            current = known and known.version == version
            recipes = known.recipes if known and current else enabled_recipes(connection, tenant_id)
            examples = examples_of(connection, tenant_id) if answered[1] else ()
        index = (known.index if known and current else Index(recipes)).remembering(examples)
        while len(self._catalogues) >= CATALOGUES:
            del self._catalogues[next(iter(self._catalogues))]
        self._catalogues[tenant_id] = Catalogue(version, recipes, index, terms, answered)
        return self._catalogues[tenant_id]

    # ------------------------------------------------------------ tiers 1 and 2

    def _without_model(self, case: Case, earlier: Earlier) -> Found | None:
        ruled = case.catalogue.by_rules(case.subject)
        if ruled:
            return Found(ruled)
        return None if case.claim.incident["fresh"] else self._reuse(case, earlier)

    def _reuse(self, case: Case, earlier: Earlier) -> Found | None:
        """The newest verdict of a model or a person about the same cause whose citations this evidence bears out.
        Where there are verdicts but none fits, the words decide until the model may be asked about this cause again.
        """
        rows = earlier.get(case.key, ())
        for row in rows:
            cited = [Citation(one["pointer"], one["value"]) for one in row["citations"]]
            held = recheck(cited, case.subject.evidence)
            if held is not None:
                return Found(_taken_over(row, held))
        asked = max((row["created_at"] for row in rows if row["tier"] == "model"), default=None)
        if asked is None or asked + CAUSE_REST <= now():
            return None
        return self._lexical(case, provisional=True, redo_at=asked + CAUSE_REST)

    def _earlier(self, cases: Iterable[Case]) -> Earlier:
        """Verdicts that may be taken over, newest first, of all these causes.

        Not those of the rule tier: its conditions were tried on this incident and did not hold.
        """
        keys = {case.key for case in cases if not case.claim.incident["fresh"]}
        if not keys:
            return {}
        earlier: dict[Key, list[Any]] = defaultdict(list)
        since = now() - timedelta(hours=REUSE_HOURS)
        values = {"keys": sorted(keys), "since": since, "model": self._limits.model_name}
        with self._engine.connect().execution_options(sqlite_readonly=True) as connection:
            for row in connection.execute(_EARLIER_VERDICTS, values).mappings():
                earlier[row["tenant_id"], row["cause"], row["catalogue_version"]].append(row)
        return earlier

    # ------------------------------------------------------------ tier 4, with 5 behind it

    async def _turns(self, cases: Sequence[Case], decided: list[Decided]) -> list[Work]:
        """Of those that no tier before the model has decided: what may ask it. Where it cannot be had the words decide;
        who has to wait for another of the same cause is put back.
        """
        away = claims.away_until(self._engine) if self._model and cases else None
        waiting: dict[Key, list[Case]] = {}
        work: list[Work] = []
        for case in cases:
            if case.key in waiting:
                waiting[case.key].append(case)
                continue
            with self._edge(case.claim):
                turn = self._turn(case, away)
                if isinstance(turn, Found):
                    decided.append(_decided(case, turn))
                elif turn:
                    work.append(turn)
                if not isinstance(turn, Found):
                    waiting[case.key] = []
            await asyncio.sleep(0)
        self._give_back([case for others in waiting.values() for case in others])
        return work

    def _turn(self, case: Case, away: datetime | None) -> Found | Work | None:
        """The words' answer where the model cannot be had, else the call, or None where another asks."""
        if self._model is None:
            # Without a model at all the verdict may be redone once there is one.
            return self._lexical(case, provisional=True)
        shortlist = case.catalogue.shortlist(case.ranked)
        if not (case.catalogue.terms.model_allowed and shortlist):
            return self._lexical(case, provisional=False)  # a tenant's refusal is final
        if case.claim.incident["attempts"] > claims.SUSPECT_ATTEMPTS:
            return self._in_vain(case)
        if away:
            return self._lexical(case, provisional=True, redo_at=away)
        turn = claims.take_cause(self._engine, case.claim, case.cause, self._limits.lease)
        if turn is Turn.MINE:
            return self._my_turn(case, self._model, shortlist)
        return self._in_vain(case) if turn is Turn.FAILED else None

    def _give_back(self, cases: Sequence[Case]) -> None:
        """Put back what waits for another of its cause; where that fails the end of the lease does it."""
        if not cases:
            return
        try:
            with self._engine.begin() as connection:
                claims.give_back(connection, [(case.claim, case.cause) for case in sorted(cases, key=_place)])
        except SQLAlchemyError as error:
            log.error("classify.not_given_back", incidents=len(cases), error=type(error).__name__)

    async def _my_turn(self, case: Case, model: Model, shortlist: list[Recipe]) -> None:
        """The verdict is stored before the turn ends, so that those who wait for it find it."""
        failed = False
        with self._edge(case.claim):
            try:
                # Somebody may have answered between the look for a verdict to take over and this turn.
                found = None if case.claim.incident["fresh"] else self._reuse(case, self._earlier([case]))
                found = found or await self._ask(case, model, shortlist)
                failed = found.cause_failed
                self._write([_decided(case, found)])
            finally:
                claims.leave_cause(self._engine, case.claim, case.cause, failed=failed)

    async def _ask(self, case: Case, model: Model, shortlist: list[Recipe]) -> Found:
        examples = case.catalogue.index.nearest(case.subject, EXAMPLES)
        limit = case.catalogue.terms.tokens_a_day(self._limits.llm_daily_tokens)
        paid = Metered(self._engine, model, case.tenant_id, limit, self._excess)
        try:
            answer = await ask_model(case.subject, shortlist, paid, self._limits.llm_timeout, examples=examples)
        except BudgetSpent:
            meters.asked_in_vain("budget_spent")
            return self._lexical(case, provisional=True, redo_at=self._budget_again(case))
        except ModelAway as away:
            meters.asked_in_vain("away")
            return self._after_away(case, away)
        except BadAnswer as bad:
            meters.asked_in_vain("bad_answer")
            log.warning("model.bad_answer", incident=str(case.claim.incident["id"]), problem=bad.problem[:200])
            return replace(self._in_vain(case), cause_failed=True)
        meters.asked(answer.tokens, answer.latency_ms)
        claims.model_answered(self._engine)
        others = [Candidate(one.recipe, one.confidence) for one in case.ranked if one.recipe != answer.recipe]
        return Found(replace(answer, runners_up=tuple(others[:RUNNERS_UP])), reusable=True)

    def _budget_again(self, case: Case) -> datetime:
        """Tomorrow, or when the calls in flight have ended: they cost less than was reserved for them."""
        tomorrow = claims.next_budget()
        return min(tomorrow, now() + self._limits.lease) if claims.others_ask(self._engine, case.claim) else tomorrow

    def _after_away(self, case: Case, away: ModelAway) -> Found:
        """Redone when the model is back. One that was asked about before rests longer, for it may be the very
        question that hangs the model, and everybody waits while the model counts as away.
        """
        until = claims.model_failed(self._engine, away.reason, away.retry_after)
        log.warning("model.away", reason=away.reason, until=until.isoformat())
        before = case.claim.incident["model_attempts"]
        rest = min(timedelta(seconds=15 * 2 ** min(before, 10)), LONGEST_REST) if before else timedelta(0)
        return replace(self._lexical(case, provisional=True, redo_at=until + rest), in_vain=True)

    def _in_vain(self, case: Case) -> Found:
        """The lexical verdict where asking the model leads nowhere; final after a few times."""
        tried = case.claim.incident["model_attempts"] + 1
        redo_at = now() + claims.CAUSE_PAUSE * tried
        return replace(self._lexical(case, provisional=tried < MODEL_ATTEMPTS, redo_at=redo_at), in_vain=True)

    def _lexical(self, case: Case, *, provisional: bool, redo_at: datetime | None = None) -> Found:
        started = time.perf_counter()
        answer = case.catalogue.by_words(case.subject, case.ranked)
        took = round((time.perf_counter() - started) * 1000)
        return Found(replace(answer, latency_ms=took), provisional=provisional, redo_at=redo_at)

    # ------------------------------------------------------------ store

    def _store(self, decided: Sequence[Decided]) -> None:
        """All in one transaction; where that cannot be, each by itself."""
        if len(decided) > 1:
            try:
                return self._write(decided)
            except Exception as error:  # what it was is found, and recorded, where each is stored alone
                log.warning("classify.stored_one_by_one", incidents=len(decided), error=type(error).__name__)
        for one in decided:
            with self._edge(one.case.claim):
                self._write([one])
        return None

    def _write(self, decided: Sequence[Decided]) -> None:
        """Write verdicts and the ends of their claims, all or none. A single incident that is somebody else's by now
        (a person was faster) is left alone; where one of several is, NotAllOurs is raised.
        """
        kept = self._same_as_before(decided)
        with self._engine.begin() as connection:
            current, stale = _by_catalogue(connection, sorted(decided, key=lambda one: _place(one.case)))
            # The recipes changed while the model thought: its answer may name one that is no more.
            claims.give_back(connection, [(one.case.claim, one.case.cause) for one in stale])
            ids = [kept.get(one.case.incident_id) or new_id() for one in current]
            ends = [(one.case.claim, _end(one) | {"verdict_id": id}) for one, id in zip(current, ids, strict=True)]
            if not claims.settle(connection, ends):
                if len(decided) > 1:
                    raise NotAllOurs
                return
            new = [(one, id) for one, id in zip(current, ids, strict=True) if one.case.incident_id not in kept]
            if new:
                connection.execute(_INSERT_VERDICTS, [self._row(one) | {"id": id} for one, id in new])
                connection.execute(_INSERT_ENTRIES, [entry for one, _ in new for entry in _entries(one)])
            request_ids = _request_ids(connection, [one.case.incident_id for one, _ in new])
        for one, _ in new:
            _tell(one, request_ids.get(one.case.incident_id))

    def _same_as_before(self, decided: Sequence[Decided]) -> dict[Any, Any]:
        """The verdicts in force, by incident, of which a redo found no more than them: then nothing new is written."""
        redone = [one for one in decided if one.found.provisional and one.case.claim.incident["verdict_id"]]
        if not redone:
            return {}
        in_force = [one.case.claim.incident["verdict_id"] for one in redone]
        statement = select(Verdict.id, Verdict.tier, Verdict.recipe).where(
            Verdict.id.in_(in_force), Verdict.provisional
        )
        with self._engine.connect().execution_options(sqlite_readonly=True) as connection:
            said = {row.id: (row.tier, row.recipe) for row in connection.execute(statement)}
        return {
            one.case.incident_id: one.case.claim.incident["verdict_id"]
            for one in redone
            if said.get(one.case.claim.incident["verdict_id"]) == (one.found.answer.tier, one.found.answer.recipe)
        }

    def _row(self, one: Decided) -> dict[str, Any]:
        case, found, answer = one.case, one.found, one.found.answer
        return {
            "tenant_id": case.tenant_id,
            "incident_id": case.incident_id,
            "claim": case.claim.id,
            "recipe": answer.recipe,
            "tier": answer.tier,
            "confidence": answer.confidence,
            "provisional": found.provisional,
            "reusable": found.reusable,
            "cause": case.cause,
            "catalogue_version": case.catalogue.version,
            "prompt_version": PROMPT_VERSION,
            "model_version": self._limits.model_name,
            "runners_up": [{"recipe": one.recipe, "confidence": one.confidence} for one in answer.runners_up],
            "citations": [{"pointer": one.pointer, "value": one.value} for one in answer.citations],
            "summary": answer.summary,
            "model": answer.model,
            "tokens": answer.tokens,
            "latency_ms": answer.latency_ms,
            "actor": ACTOR,
        }


def _earlier_verdicts(columns: Sequence[str]) -> Select[Any]:
    """The newest that may be taken over, of each of some tenants, causes and catalogues."""
    same = tuple_(Verdict.tenant_id, Verdict.cause, Verdict.catalogue_version)
    newest = func.row_number().over(partition_by=(Verdict.tenant_id, Verdict.cause), order_by=Verdict.id.desc())
    found = (
        select(*[table(Verdict).c[name] for name in columns], newest.label("place"))
        .where(
            same.in_(bindparam("keys", expanding=True)),
            holds(Verdict.reusable),
            Verdict.created_at > bindparam("since"),
            or_(
                Verdict.tier == "person",
                (Verdict.prompt_version == PROMPT_VERSION) & (Verdict.model_version == bindparam("model")),
            ),
        )
        .subquery()
    )
    return select(*[found.c[name] for name in columns]).where(found.c.place <= EARLIER).order_by(found.c.id.desc())


# Made once: to build a statement takes longer than to run it.
_EARLIER_VERDICTS = _earlier_verdicts(
    "id tenant_id cause catalogue_version tier created_at recipe confidence runners_up citations summary model".split()
)
_OPENED_BY = (
    select(AlertRecord.incident_id, Delivery.request_id)
    .join(Delivery, Delivery.id == AlertRecord.delivery_id)
    .where(AlertRecord.incident_id.in_(bindparam("ids", expanding=True)), AlertRecord.outcome == Outcome.CREATED)
)
_INSERT_VERDICTS = insert(table(Verdict))
_INSERT_ENTRIES = insert(table(TimelineEntry))


def terms_of(connection: Connection, tenant_id: int) -> tuple[int, Terms]:
    """The version of a tenant's catalogue and the terms on which its recipes are chosen."""
    columns = (Tenant.catalogue_version, Tenant.model_allowed, Tenant.answer_threshold, Tenant.daily_tokens)
    version, allowed, threshold, tokens = connection.execute(select(*columns).where(Tenant.id == tenant_id)).one()
    return version, Terms.chosen(allowed, threshold, tokens)


def enabled_recipes(connection: Connection, tenant_id: int) -> tuple[Recipe, ...]:
    """The recipes that a verdict may name."""
    statement = select(table(RecipeRow)).where(RecipeRow.tenant_id == tenant_id, RecipeRow.enabled)
    return tuple(_recipe(row) for row in connection.execute(statement).mappings())


def _recipe(row: Any) -> Recipe:
    return Recipe(
        slug=row["slug"],
        title=row["title"],
        when=row["when_to_use"],
        applies_to=tuple(row["applies_to"]),
        match=row["match"] or {},
        risk=row["risk"],
        steps=row["steps"],
        tags=tuple(row["tags"]),
    )


def _taken_over(row: Any, citations: tuple[Citation, ...]) -> Answer:
    return Answer(
        recipe=row["recipe"],
        tier="reuse",
        confidence=row["confidence"],
        runners_up=tuple(Candidate(one["recipe"], one["confidence"]) for one in row["runners_up"]),
        citations=citations,
        summary=row["summary"],
        model=row["model"],
    )


def _noisiest_last(claimed: Sequence[Claim]) -> list[list[Claim]]:
    """A batch in two parts: nobody's verdict is stored only when all of who sends most have been looked at."""
    if not claimed:
        return []
    ((noisiest, _),) = Counter(claim.incident["tenant_id"] for claim in claimed).most_common(1)
    parts: tuple[list[Claim], list[Claim]] = ([], [])
    for claim in claimed:
        parts[claim.incident["tenant_id"] == noisiest].append(claim)
    return [part for part in parts if part]


def _decided(case: Case, found: Found) -> Decided:
    return Decided(case, found, _why_human(case, found))


def _place(case: Case) -> tuple[int, str, uuid.UUID]:
    """In this order the door locks incidents: whoever locks several does it in the same."""
    return case.tenant_id, case.claim.incident["identity"], case.incident_id


def _by_catalogue(connection: Connection, decided: Sequence[Decided]) -> tuple[list[Decided], list[Decided]]:
    """Those whose recipes are what they were when they were looked at, and the others."""
    tenants = {one.case.tenant_id for one in decided}
    rows = connection.execute(select(Tenant.id, Tenant.catalogue_version).where(Tenant.id.in_(tenants)))
    versions = {row.id: row.catalogue_version for row in rows}
    current: list[Decided] = []
    stale: list[Decided] = []
    for one in decided:
        (current if versions.get(one.case.tenant_id) == one.case.catalogue.version else stale).append(one)
    return current, stale


def _end(one: Decided) -> dict[str, Any]:
    """What the incident says when its verdict is there."""
    found = one.found
    return {
        "triage": Triage.NEEDS_HUMAN if one.reason else Triage.DONE,
        "triage_since": now(),
        "cause": one.case.cause,
        "fresh": False,
        "provisional": found.provisional,
        "retry_at": found.redo_at if found.provisional else None,
        "model_attempts": one.case.claim.incident["model_attempts"] + found.in_vain,
    }


def _why_human(case: Case, found: Found) -> str | None:
    """Why a person has to look, or None when the verdict stands by itself."""
    if case.suspicion:
        return f"suspicion of injection: {case.suspicion}"
    if found.answer.recipe is None:
        return "no recipe fits"
    threshold = case.catalogue.terms.threshold_of(found.answer)
    if found.answer.confidence < threshold:
        return f"confidence {found.answer.confidence:.2f} is below {threshold:g}"
    return _objection(case, found.answer)


def _objection(case: Case, answer: Answer) -> str | None:
    """What the words say against a model's recipe, also against one taken over from an earlier incident."""
    if answer.recipe is None or answer.model is None:
        return None
    return objection(answer.recipe, case.ranked)


def _entries(one: Decided) -> list[dict[str, Any]]:
    incident, answer = one.case.claim.incident, one.found.answer
    common = {"tenant_id": incident["tenant_id"], "incident_id": incident["id"], "at": now(), "actor": ACTOR}
    said = {
        "tier": answer.tier,
        "recipe": answer.recipe,
        "confidence": answer.confidence,
        "provisional": one.found.provisional,
    }
    entries = [common | {"kind": "classified", "detail": said}]
    if one.reason:
        entries.append(common | {"kind": "needs_human", "detail": {"reason": one.reason}})
    return entries


def _request_ids(connection: Connection, incident_ids: Sequence[uuid.UUID]) -> dict[Any, str]:
    """The id of the request that opened each: it joins the line of the worker with that of the web process."""
    if not incident_ids:
        return {}
    return dict(connection.execute(_OPENED_BY, {"ids": incident_ids}).all())


def _tell(one: Decided, request_id: str | None) -> None:
    since = one.case.claim.incident["triage_since"]
    meters.decided(one.found.answer.tier, (now() - since).total_seconds())
    traces.verdict(
        request_id,
        since,
        **{
            "openremedy.tenant": one.case.tenant_id,
            "openremedy.incident": str(one.case.incident_id),
            "openremedy.tier": one.found.answer.tier,
            "openremedy.recipe": one.found.answer.recipe or "none",
            "openremedy.provisional": one.found.provisional,
        },
    )
    log.info(
        "incident.classified",
        request_id=request_id,
        tenant=one.case.tenant_id,
        incident=str(one.case.incident_id),
        tier=one.found.answer.tier,
        recipe=one.found.answer.recipe,
        provisional=one.found.provisional,
    )
