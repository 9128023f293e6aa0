"""How gunicorn serves wsgi:app. The address comes from the command line (`--bind`)."""

import gc
import mmap
import os
import shutil
import sys
import tempfile
import time
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

from gunicorn.http import parser
from gunicorn.workers.gthread import ThreadWorker

PLACES = 64
NOBODY = 2**31 - 1
FULL = 2**20  # more than anybody's connections
HESITATION = 0.001  # seconds
# What each worker has in hand, in memory that they share; one place for each.
_load = memoryview(mmap.mmap(-1, 4 * PLACES)).cast("i")
_load[:] = array("i", [NOBODY] * PLACES)


class EvenWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """Leaves a new connection to a worker that has fewer, for a moment.

    All are woken for each, and of senders that keep their connections one worker often had nearly all: the other's
    processor idled while alerts waited (docs/adr/0043). Only for a moment: one that hangs has few and takes none.
    """

    nr_conns: int
    place = 0  # set before the fork

    @property
    def load(self) -> int:
        """Its connections; whose threads are all busy has more than any other."""
        busy = self.nr_conns - len(self.keepalived_conns) - len(self.pending_conns)
        return self.nr_conns + (FULL if busy >= self.cfg.threads else 0)

    def accept(self, listener: Any) -> None:
        """As gthread does, but not before the others, and not what would only wait here and not there."""
        if self.load > min(_load):
            time.sleep(HESITATION)
            if self.load >= FULL > min(_load):
                return
        super().accept(listener)
        _load[self.place] = self.load

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Gunicorn counts a connection twice that broke in the middle of an answer; one that has fewer is sent more."""
        before = self.nr_conns
        super().finish_request(conn, fs)
        self.nr_conns = max(self.nr_conns, before - 1)

    def notify(self) -> None:
        """Called whenever something happened, and every second."""
        _load[self.place] = self.load if self.alive else NOBODY
        super().notify()


# Threads, because a sender that opens a connection and says nothing would stall a sync worker: two of them stop two
# workers. Twelve threads a worker stand more; many slow senders still need a buffering proxy in front. As many as a
# pool has connections: the more alerts of a tenant come at once, the more one statement stores (docs/performance.md).
worker_class = EvenWorker
workers = 2
threads = 12

# A worker that does not answer its master for this long is killed.
timeout = 30
# How long requests in hand may take after a stop; below supervisord's stopwaitsecs.
graceful_timeout = 15
# Seconds. An idle connection holds no thread. Longer than most tools pause between two notifications, because one that
# we close at the moment the next is posted on it fails, and some tools do not try again.
keepalive = 75

# What is left of a refused body is read (for five seconds at most) before the connection is used again. Of more than
# this gunicorn would break the connection: a proxy that still sends takes us for dead, does not hear the answer, and
# asks nobody any more for a while. Gunicorn has no setting for it; tests/test_wire.py sees whether it still works.
parser._DRAIN_MAX_BYTES = 16 << 20

# Each worker makes its own pools and clients: nothing connected is shared over a fork.
preload_app = False

# Our longest URL is a list with filters and a cursor; headers of monitoring tools stay far below these.
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190

# Who is a proxy is decided in one place, OPENREMEDY_PROXY_COUNT; gunicorn itself believes nobody.
forwarded_allow_ips = ""

# The application writes one line a request itself, without bodies and secrets.
accesslog = None
errorlog = "-"
loglevel = "warning"

# Otherwise a control socket appears in the home folder, shared by every gunicorn of this user.
control_socket_disable = True


COUNTED_IN = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's name for it


def on_starting(_arbiter: Any) -> None:
    """Read the settings once before there are workers: a wrong one is one line, not one from each of them. Then make
    the folder of what the workers count together; each start has its own, and the workers find it in the environment.
    """
    # Here and not above: the bench serves others with this file, whose interpreter lacks our packages.
    from config import SettingsError, load

    try:
        load()
    except SettingsError as error:
        print(f"OpenRemedy cannot start: {error}", file=sys.stderr)
        sys.exit(3)
    there = Path("/dev/shm")  # nosec B108 # noqa: S108 - mkdtemp makes a folder there that is ours alone
    in_memory = there if os.access(there, os.W_OK) else None
    os.environ[COUNTED_IN] = tempfile.mkdtemp(prefix="openremedy-metrics-", dir=in_memory)


def on_exit(_arbiter: Any) -> None:
    """Take the folder away."""
    shutil.rmtree(os.environ.get(COUNTED_IN, ""), ignore_errors=True)


def pre_fork(arbiter: Any, worker: Any) -> None:
    """Choose a worker's place, and its processor where there are no more than workers: one that the fewest have.

    Its threads run one at a time, and each that goes on elsewhere finds nothing of the interpreter in the cache there;
    on one processor they also never pull the interpreter's lock to and fro. It gains a quarter (docs/performance.md).
    With processors to spare the system does better than we.
    """
    # After a reload there may be some that the release before had started.
    taken_places = {getattr(one, "place", None) for one in arbiter.WORKERS.values()}
    worker.place = min(set(range(PLACES)) - taken_places, default=0)
    there = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    taken = Counter(one.processor for one in arbiter.WORKERS.values())
    worker.processor = min(there, key=lambda one: taken[one]) if 0 < len(there) <= arbiter.num_workers else None


def post_fork(_arbiter: Any, worker: Any) -> None:
    """Keep the worker there, and every thread that it will have."""
    if worker.processor is not None:
        os.sched_setaffinity(0, {worker.processor})


def child_exit(_arbiter: Any, worker: Any) -> None:
    """Its connections ended with it."""
    if hasattr(worker, "place"):
        _load[worker.place] = NOBODY


def post_worker_init(_worker: Any) -> None:
    """Look for garbage less often, and never again at what a worker keeps for its life.

    A body of fifty alerts makes some ten thousand objects that go without the collector's help; it cost a seventh.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 20)
