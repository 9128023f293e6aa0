"""Starts a program that ends when its parent ends: `python -m openremedy.tether LOCK PROGRAM ARGS`.

Without it a `kill -9` of the launcher or of its supervisor leaves servers behind that nobody stops and that hold
the port. Only Linux has the call; elsewhere (macOS) what is left behind has to be stopped by hand.

The program and all that it starts share the lock LOCK (a file's path) until they are really gone, however their
supervisor ended; the next start waits for it.
Standard library only: this runs before each program, so it must cost milliseconds.
"""

import ctypes
import fcntl
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>; the setting survives exec


def die_with_parent(with_signal: int = signal.SIGTERM) -> None:
    """The kernel sends this process `with_signal` when the one that started it is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(with_signal))


def share(lock: str) -> None:
    """Hold a part of the lock in this process, in the program it becomes and in that program's children.

    Raises BlockingIOError where the next start has it already: this one's supervisor is gone.
    """
    descriptor = os.open(lock, os.O_RDONLY | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.set_inheritable(descriptor, True)


def main(lock: str, *words: str) -> None:
    """Become the program."""
    die_with_parent()
    share(lock)
    # No shell: the words are our own, and the program keeps this process id.
    os.execvp(words[0], words)  # nosec B606 # noqa: S606 - as said above


if __name__ == "__main__":
    main(*sys.argv[1:])
