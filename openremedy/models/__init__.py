"""What we keep."""

from openremedy.models.base import Base, now, table
from openremedy.models.incident import (
    AlertRecord,
    CauseLease,
    Delivery,
    EndedBy,
    Feedback,
    Incident,
    IncidentStatus,
    ModelState,
    RefusalCount,
    TimelineEntry,
    TokenUsage,
    Triage,
    Verdict,
)
from openremedy.models.recipe import Recipe
from openremedy.models.tenant import (
    ApiToken,
    Membership,
    Role,
    Source,
    SourceSecret,
    SourceToken,
    Tenant,
    User,
    WebhookSecret,
)

__all__ = [
    "AlertRecord",
    "ApiToken",
    "Base",
    "CauseLease",
    "Delivery",
    "EndedBy",
    "Feedback",
    "Incident",
    "IncidentStatus",
    "Membership",
    "ModelState",
    "Recipe",
    "RefusalCount",
    "Role",
    "Source",
    "SourceSecret",
    "SourceToken",
    "Tenant",
    "TimelineEntry",
    "TokenUsage",
    "Triage",
    "User",
    "Verdict",
    "WebhookSecret",
    "now",
    "table",
]
