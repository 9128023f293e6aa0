"""Starts a program that ends when its parent ends: `python -m openremedy.tether PROGRAM ARGS`.

Without it a `kill -9` of the launcher or of its supervisor leaves servers behind that nobody stops and that hold
the port. Only Linux has the call; elsewhere (macOS) what is left behind has to be stopped by hand.
Standard library only: this runs before each program, so it must cost milliseconds.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>; the setting survives exec


def die_with_parent(with_signal: int = signal.SIGTERM) -> None:
    """The kernel sends this process `with_signal` when the one that started it is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(with_signal))


def main(arguments: list[str]) -> None:
    """Become the program."""
    die_with_parent()
    # No shell: the words are our own, and the program keeps this process id.
    os.execvp(arguments[0], arguments)  # nosec B606 # noqa: S606 - as said above


if __name__ == "__main__":
    main(sys.argv[1:])
