"""Identifiers that sort by the time they were made and cannot be guessed."""

import os
import time
import uuid
from datetime import datetime

from openremedy import clock


def new_id() -> uuid.UUID:
    """A UUID version 7 (RFC 9562): 48 bits of milliseconds, 12 of their fraction, 62 random bits.

    Made here and not by the database, so that all rows of one body can be written without asking for their keys.
    """
    told = clock.told()  # a row of a told history sorts by its own time
    milliseconds, nanoseconds = divmod(int(told.timestamp() * 1e9) if told else time.time_ns(), 1_000_000)
    fraction = nanoseconds * 4096 // 1_000_000
    random = int.from_bytes(os.urandom(8)) >> 2
    return uuid.UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random)


def first_id(moment: datetime) -> uuid.UUID:
    """The smallest identifier that can be made at `moment`: what is not less was made then or later."""
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80 | 0x7 << 76 | 0b10 << 62)


def parse_id(text: str) -> uuid.UUID | None:
    """The identifier written as `text`, or None when it is none of ours."""
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return None
    return parsed if str(parsed) == text.lower() else None
