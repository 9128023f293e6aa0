"""The commands that measure the classifier: where a model comes from, and what each of them puts together."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from config import Settings
from openremedy import benchmark, workers
from openremedy.benchmark import Wanted
from openremedy.errors import Invalid
from openremedy.evaluation import confirmed, lines
from openremedy.evaluation.confirmed import Means, Setting
from openremedy.extensions import db
from openremedy.registry import adapters

T = TypeVar("T")


def folder(settings: Settings, where: Path, **wanted: Any) -> dict[str, Any]:
    """The figures of a folder, as benchmark.evaluate() has them. Raises Invalid."""
    price = wanted.pop("price_per_million")
    asked = Wanted(where, price=price, **wanted)
    found = adapters()
    return _with_model(settings, asked.tier, lambda means: benchmark.evaluate(asked, found, means))


def tenant(
    settings: Settings,
    tenant_id: int,
    *,
    tier: str,
    threshold: float | None,
    recipes: Path | None,
    predictions: Path | None,
    price_per_million: float | None,
    variant: str,
) -> dict[str, Any]:
    """The figures of all incidents of a tenant that people have answered. Raises Invalid, Conflict."""
    if variant != "named":
        raise Invalid("Incidents of a tenant have no variants.")
    setting = Setting(tier, threshold, benchmark.recipes_of(recipes) if recipes else None)
    answered = confirmed.answered(db.engine, tenant_id)
    run = _with_model(settings, tier, lambda means: confirmed.run(db.engine, tenant_id, answered, setting, means))
    if predictions:
        lines.write(predictions, lines.prediction_rows([one.prediction for one in run.told]))
    return run.as_json(setting, price_per_million)


def compared(first: Path, second: Path, truth: Path | None, tenant_id: int | None) -> dict[str, Any]:
    """Two files of predictions against a truth, or against what people said of a tenant's incidents. Raises Invalid."""
    if truth is not None:
        return benchmark.compare_files(first, second, benchmark.truths_of(truth))
    assert tenant_id is not None  # nosec B101 # noqa: S101 - the command asks for one of them
    return benchmark.compare_files(first, second, confirmed.answered(db.engine, tenant_id).truths)


def _with_model(settings: Settings, tier: str, measure: Callable[[Means], Awaitable[T]]) -> T:
    """Run with the configured model where the tier needs one; its client lives in this one event loop."""

    async def measured() -> T:
        client = workers.model_client(settings) if tier == "model" else None
        try:
            return await measure(
                Means(client, settings.llm_timeout, settings.llm_concurrency, settings.llm_daily_tokens)
            )
        finally:
            if client:
                await client.close()

    return asyncio.run(measured())
