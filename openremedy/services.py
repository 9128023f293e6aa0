"""What one application is made of, built once by create_app() and found here by whoever serves a request."""

from dataclasses import dataclass
from typing import cast

from flask import current_app
from redis import Redis

from config import Settings
from openremedy.crypto import Vault
from openremedy.directory import Directory, SourceDirectory
from openremedy.fetching import Fetcher
from openremedy.intake import Door
from openremedy.queue import Waker
from openremedy.tally import Tally

KEY = "openremedy"
# A job may outlive one model deadline by this: the time of its other tiers and of its last batch.
JOB_MARGIN = 60


@dataclass(frozen=True)
class Services:
    """The parts that hold a connection, a key or a thread."""

    settings: Settings
    vault: Vault
    redis: Redis
    waker: Waker
    follow_up_waker: Waker
    fetcher: Fetcher
    tally: Tally
    directory: Directory
    sources: SourceDirectory
    door: Door


def services() -> Services:
    """The services of the current application."""
    return cast(Services, current_app.extensions[KEY])
