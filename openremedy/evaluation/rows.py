"""What was predicted of an alert, what is right, and both together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Id = str | int


@dataclass(frozen=True)
class Truth:
    """What is right for one alert; `right` None: no recipe fits. `accept`: recipes that would be right as well.

    `family`: alerts of one family are no independent evidence. `basis`, `kind` and `foreign` say whence the truth is.
    """

    id: Id
    right: str | None
    accept: frozenset[str] = frozenset()
    family: str | None = None
    basis: str = ""
    kind: str = ""
    foreign: bool = False
    opaque: str | None = None


@dataclass(frozen=True)
class Prediction:
    """`recipe` None is an abstention, and `confidence` then the chance that no recipe fits.

    `score`: the chance that the best of `ranked` is right, given as the answer or not; None leaves it out of coverage.
    """

    id: Id
    recipe: str | None = None
    confidence: float = 0.0
    ranked: tuple[str, ...] = ()
    score: float | None = None


@dataclass(frozen=True)
class Judged:
    """A prediction beside the truth, in the names of the truth."""

    truth: Truth
    prediction: Prediction

    @property
    def answered(self) -> bool:
        return self.prediction.recipe is not None

    @property
    def correct(self) -> bool:
        """The right recipe, or none where none fits."""
        return self.prediction.recipe == self.truth.right

    @property
    def place(self) -> int:
        """Where the right recipe stands in the list, from 1; 0 where it does not."""
        ranked = self.prediction.ranked
        return ranked.index(self.truth.right) + 1 if self.truth.right in ranked else 0

    @property
    def best(self) -> str | None:
        return self.prediction.ranked[0] if self.prediction.ranked else None


def judged(truths: Sequence[Truth], predictions: Iterable[Prediction]) -> list[Judged]:
    """Each truth with its prediction; one that is missing counts as an abstention without confidence."""
    names = {truth.opaque: truth.right for truth in truths if truth.opaque and truth.right}
    by_id = {prediction.id: prediction for prediction in predictions}
    return [Judged(truth, _named(by_id.get(truth.id, Prediction(truth.id)), names)) for truth in truths]


def _named(prediction: Prediction, names: Mapping[str, str]) -> Prediction:
    """With the plain name of each recipe that the truth also knows by an opaque one."""
    recipe = names.get(prediction.recipe or "", prediction.recipe)
    ranked = tuple(names.get(slug, slug) for slug in prediction.ranked)
    ranked = ranked or ((recipe,) if recipe else ())
    return Prediction(prediction.id, recipe, prediction.confidence, ranked, prediction.score)
