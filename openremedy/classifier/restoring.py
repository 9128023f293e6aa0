"""What stood behind [masked:…], for people who may see the evidence anyway.

A verdict is stored as the model gave it, masked: only where an incident is shown is it read beside the evidence.
"""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from .masking import DONE, mask, secrets_in
from .pointers import NoSuchPlace, resolve

LONGEST = 200  # a key file in the middle of a sentence helps nobody


class Restorer:
    """Puts the secrets of one incident's evidence back into texts about it."""

    def __init__(self, evidence: Mapping[str, Any]) -> None:
        self._evidence = evidence

    def text(self, text: str) -> str:
        """With two secrets of one kind it is not known which was meant; then both stay masked."""
        return DONE.sub(self._secret, text) if DONE.search(text) else text

    def citation(self, cited: Mapping[str, Any]) -> dict[str, Any]:
        """With what stands at the place today, if it is what was cited."""
        if not (isinstance(cited["value"], str) and DONE.search(cited["value"])):
            return dict(cited)
        try:
            same = resolve(self._masked, cited["pointer"]) == cited["value"]
            return {**cited, "value": resolve(self._evidence, cited["pointer"])} if same else dict(cited)
        except NoSuchPlace:
            return dict(cited)

    @cached_property
    def _masked(self) -> Any:
        return mask(self._evidence)

    @cached_property
    def _secrets(self) -> dict[str, str]:
        """The kinds of which there is one secret."""
        found = {kind: next(iter(secrets)) for kind, secrets in secrets_in(self._evidence).items() if len(secrets) == 1}
        return {kind: secret for kind, secret in found.items() if len(secret) <= LONGEST}

    def _secret(self, found: re.Match[str]) -> str:
        return self._secrets.get(found[1], found[0])
