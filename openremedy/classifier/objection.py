"""What the words say against a model's choice: a model alone does not decide (docs/adr/0027)."""

from collections.abc import Sequence

from .shapes import Candidate

# A choice with less than this share of the best candidate's confidence has next to no support.
LEAST_SHARE = 0.05
SURE = 0.3  # from here on the words name a recipe; below they only guess


def objection(recipe: str, ranked: Sequence[Candidate]) -> str | None:
    """Why a person should look at a model's recipe although the model is sure, or None.

    `ranked` is the lexical tier's list, best first. Its silence is no objection: where it is not sure of any recipe the
    model may choose another one, as long as the words support that one too.
    """
    support = next((one.confidence for one in ranked if one.recipe == recipe), 0.0)
    if support <= 0:
        return f"the model chose {recipe}, which shares no words with the incident"
    best = ranked[0]
    if best.recipe == recipe:
        return None
    if best.confidence >= SURE:
        return f"the model chose {recipe}, the words say {best.recipe} ({best.confidence:.2f})"
    if support < LEAST_SHARE * best.confidence:
        return f"the model chose {recipe}, for which the words hardly speak"
    return None
