"""The web's side of an evaluation: ask a worker for one, and read its figures. Knows nothing of the classifier."""

from collections.abc import Mapping
from typing import Any

from openremedy import errands
from openremedy.errands import Errand, Sort
from openremedy.services import Services

SORT = Sort(
    job="openremedy.jobs.evaluate",  # a string, so that the web process never imports it
    name="evaluation",
    away="An evaluation needs the queue, which cannot be reached just now; try it again in a moment.",
    at_once=2,  # each takes a worker from the verdicts of all tenants for up to 20 seconds
)

Setting = Mapping[str, Any]  # tier, threshold


def start_evaluation(services: Services, tenant_id: int, setting: Setting, against: Setting | None) -> str:
    """Queue an evaluation of a setting, beside another one where `against` says so; returns the job's id.

    Raises Unavailable, Conflict.
    """
    return errands.start(services, SORT, tenant_id, [dict(setting), dict(against) if against else None])


def read_evaluation(services: Services, tenant_id: int, job_id: str) -> Errand | None:
    """How far an evaluation of this tenant is, with its figures; None when there is none of this id."""
    return errands.read(services, SORT, tenant_id, job_id)
