"""The web's side of a try-out: ask a worker for one, and read what it found. Knows nothing of the classifier."""

from openremedy import errands
from openremedy.cookbook import as_json
from openremedy.errands import Errand, Sort
from openremedy.recipes import RecipeSpec
from openremedy.services import Services

SORT = Sort(
    job="openremedy.jobs.try_recipe",  # a string, so that the web process never imports it
    name="try-out",
    away="A try-out needs the queue, which cannot be reached just now. Saving a recipe does not; try it again in a "
    "moment.",
)


def start_tryout(services: Services, tenant_id: int, slug: str, spec: RecipeSpec | None) -> str:
    """Queue a try-out of `spec` in place of the recipe `slug` (None: as if it were deleted); returns the job's id.

    Raises Unavailable.
    """
    return errands.start(services, SORT, tenant_id, [slug, as_json(spec) if spec else None])


def read_tryout(services: Services, tenant_id: int, job_id: str) -> Errand | None:
    """How far a try-out of this tenant is, with what tryout.try_out() returns; None when there is none of this id."""
    return errands.read(services, SORT, tenant_id, job_id)
