"""Traces for OpenTelemetry: of each request with its statements, of each job, and of how an incident got its verdict.

Nothing of OpenTelemetry is imported until a collector is named. Its own instrumentations are not used: they tell URLs,
addresses and what PostgreSQL says of a row (docs/adr/0041). A request's trace has the id of the request, and its first
span the second half of it: so a worker, which finds that id with the incident, goes on in the same trace.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from http import HTTPMethod
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, ExceptionContext

STATEMENT = 2000  # characters of a statement that are told
LAST_WORDS = 2000  # milliseconds that the end of a process waits for a collector; the library's own would be 30 seconds
_HALF = (1 << 64) - 1

_tracer: Any = None
_provider: Any = None
# The id of the request whose first span is being made.
_wanted: ContextVar[int | None] = ContextVar("wanted", default=None)


def start(endpoint: str, version: str) -> None:
    """Send spans to `endpoint` from here on. Raises ImportError. In a process that does not fork any more."""
    global _tracer, _provider
    if _tracer:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        """A request's own id for its trace."""

        def generate_trace_id(self) -> int:
            return _wanted.get() or super().generate_trace_id()

        def generate_span_id(self) -> int:
            return (_wanted.get() or 0) & _HALF or super().generate_span_id()

    class Batches(BatchSpanProcessor):
        """Ends soon. It has no setting for that; a test sees whether this still works."""

        def shutdown(self) -> None:
            self._batch_processor.shutdown(LAST_WORDS)

    ours = Resource({"service.name": "openremedy", "service.version": version})
    resource = Resource.create().merge(ours).merge(OTELResourceDetector().detect())  # OTEL_SERVICE_NAME wins
    _provider = TracerProvider(resource=resource, id_generator=Ids())
    # By a thread, in batches: a collector that is away costs no request anything, and what does not fit is dropped.
    _provider.add_span_processor(Batches(OTLPSpanExporter(endpoint=endpoint)))
    _tracer = _provider.get_tracer("openremedy", version)
    event.listen(Engine, "before_cursor_execute", _statement_begins)
    event.listen(Engine, "after_cursor_execute", _statement_ends)
    event.listen(Engine, "handle_error", _statement_failed)


# ---------------------------------------------------------------- requests


class RequestTrace:
    """The first span of a request's trace. What a client says of a trace of its own is not heard."""

    def __init__(self, request_id: str, method: str) -> None:
        from opentelemetry import context, trace

        self._method = method if method in HTTPMethod.__members__ else "_OTHER"
        attributes = {"http.request.method": self._method, "openremedy.request_id": request_id}
        wanted = _wanted.set(int(request_id, 16))
        try:
            nothing = context.Context()
            self._span = _tracer.start_span(self._method, nothing, trace.SpanKind.SERVER, attributes)
        finally:
            _wanted.reset(wanted)
        self._token = context.attach(trace.set_span_in_context(self._span))

    def answered(self, route: str | None, status: int) -> None:
        """Tell of the answer: by the route as it is written in the code, for some paths are secret."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("http.response.status_code", status)
        if route:
            self._span.set_attribute("http.route", route)
            self._span.update_name(f"{self._method} {route}")
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)

    def end(self) -> None:
        """The answer is made."""
        from opentelemetry import context

        self._span.end()
        context.detach(self._token)


def of_request(request_id: str, method: str) -> RequestTrace | None:
    """Begin the trace of a request; None where nobody listens."""
    return RequestTrace(request_id, method) if _tracer else None


# ---------------------------------------------------------------- workers


@contextmanager
def span(name: str, **facts: Any) -> Iterator[Any]:
    """What is done within, as a part of what is done around it; gives a function that adds facts."""
    if not _tracer:
        yield _nobody
        return
    from opentelemetry.trace import StatusCode

    # Not the words of an exception, which may quote what it was about.
    began = _tracer.start_as_current_span(name, attributes=facts, record_exception=False, set_status_on_exception=False)
    with began as one:
        try:
            yield lambda **more: one.set_attributes(more)
        except Exception as error:  # told of and raised again
            one.set_status(StatusCode.ERROR, type(error).__name__)
            raise


def _nobody(**_facts: Any) -> None:
    """Where nobody listens."""


def verdict(request_id: str | None, since: datetime, **facts: Any) -> None:
    """An incident that has waited since then has one: in the trace of its first request, with a link to the job."""
    if not _tracer:
        return
    from opentelemetry import trace

    job = trace.get_current_span().get_span_context()
    links = [trace.Link(job)] if job.is_valid else []
    began = min(int(since.timestamp() * 1e9), time.time_ns())
    _tracer.start_span("verdict", _of_request(request_id), attributes=facts, links=links, start_time=began).end()


def _of_request(request_id: str | None) -> Any:
    """The context of a request's first span; sampled if that one was, which the sampler tells by the trace's id."""
    from opentelemetry import context, trace

    nowhere = context.Context()
    try:
        trace_id = uuid.UUID(request_id or "").int
    except ValueError:  # of a command, or from before there were such ids
        return nowhere
    sampled = _provider.sampler.should_sample(nowhere, trace_id, "verdict").decision.is_sampled()
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if sampled else trace.TraceFlags.DEFAULT)
    parent = trace.SpanContext(trace_id, trace_id & _HALF, is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(trace.NonRecordingSpan(parent), nowhere)


# ---------------------------------------------------------------- statements


def _statement_begins(
    connection: Connection, _cursor: Any, statement: str, _values: Any, run: Any, _many: bool
) -> None:
    """Only as a part of something: a statement alone would be a trace of its own."""
    from opentelemetry import trace

    if not trace.get_current_span().is_recording():
        return
    operation = statement.lstrip().partition(" ")[0].upper()
    attributes = {
        "db.system.name": connection.dialect.name,
        "db.operation.name": operation,
        "db.query.text": statement[:STATEMENT],  # with a placeholder for each value
    }
    run.openremedy_span = _tracer.start_span(operation, kind=trace.SpanKind.CLIENT, attributes=attributes)


def _statement_ends(
    _connection: Connection, _cursor: Any, _statement: str, _values: Any, run: Any, _many: bool
) -> None:
    if begun := getattr(run, "openremedy_span", None):
        begun.end()


def _statement_failed(failed: ExceptionContext) -> None:
    """With the kind of the error alone; its words quote the row."""
    begun = getattr(failed.execution_context, "openremedy_span", None)
    if begun is None:
        return
    from opentelemetry.trace import StatusCode

    begun.set_status(StatusCode.ERROR, type(failed.original_exception).__name__)
    begun.end()
