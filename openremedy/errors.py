"""The error tree and its one shape.

Problem                     what we tell the caller: status, code, message, fields
├── Unauthorized            401
├── Forbidden               403
├── NotFound                404
├── Conflict                409
├── TooLarge                413
├── UnsupportedEncoding     415
├── BadBody                 400 invalid_json, not_an_object, duplicate_key, invalid_number, too_deep
├── Invalid                 422 validation_error, evidence_too_large, unsupported_envelope
├── RateLimited             429
│   └── TryAgainSoon        503 rate_limited, for tools that take a 429 for a final no
└── Unavailable             503
"""

from collections.abc import Mapping
from typing import Any


class Problem(Exception):
    """Something the caller is told about: `message` is for people, `code` for programs."""

    status: int = 500  # of its class; what Flask refuses brings its own
    code: str = "internal"
    message: str = "Something went wrong on our side. The request id finds it in our log."

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        fields: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.message = message or self.message
        self.code = code or self.code
        self.fields = fields
        self.headers = dict(headers or {})
        super().__init__(self.message)

    def sentence(self) -> str:
        """Message and fields on one line."""
        details = "; ".join(f"{name}: {' '.join(map(str, found))}" for name, found in (self.fields or {}).items())
        return f"{self.message} {details}".strip()


class Unauthorized(Problem):
    """The credential is missing, wrong, expired, or of something that does not exist: all alike."""

    status = 401
    code = "unauthorized"
    message = "The credentials are missing or wrong."


class Forbidden(Problem):
    """The credential is good, its role is too low."""

    status = 403
    code = "forbidden"
    message = "Your role does not allow this."


class NotFound(Problem):
    """No such thing, or it is another tenant's."""

    status = 404
    code = "not_found"
    message = "There is nothing here."


class Conflict(Problem):
    """The thing is not in a state that allows this."""

    status = 409
    code = "conflict"


class TooLarge(Problem):
    """The body is over the limit."""

    status = 413
    code = "too_large"


class UnsupportedEncoding(Problem):
    """The body is compressed."""

    status = 415
    code = "unsupported_encoding"


class BadBody(Problem):
    """The bytes are not the JSON we take; always raised with its code."""

    status = 400
    code = "invalid_json"


class Invalid(Problem):
    """The JSON does not fit the schema."""

    status = 422
    code = "validation_error"
    message = "The request does not fit the schema."


class RateLimited(Problem):
    """Too many requests."""

    status = 429
    code = "rate_limited"


class TryAgainSoon(RateLimited):
    """Too many requests, said so that a tool which gives up at 429 tries again."""

    status = 503


class Unavailable(Problem):
    """The database cannot take it now; nothing was stored."""

    status = 503
    code = "unavailable"
    message = "The service cannot store anything just now. Nothing was kept; please send it again."

    def __init__(self, message: str | None = None, retry_after: int = 2) -> None:
        super().__init__(message, headers={"Retry-After": str(retry_after)})
