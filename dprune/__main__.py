"""`python -m dprune`, which is also what torchrun starts: what a process does before it imports anything."""

from __future__ import annotations

import gc
import os
import sys

from dprune import signals

NOWHERE = "/nonexistent"
FULL_COLLECTIONS = 100
"""Collections of the middle generation before one of all objects; Python's own 10 has each import of torch pay for
many."""


def main() -> None:
    """Run the command line."""
    _replace_closed_streams()
    signals.listen()
    _do_without_home()
    gc.set_threshold(*gc.get_threshold()[:2], FULL_COLLECTIONS)
    from dprune.cli import cli

    try:
        cli(prog_name="dprune")
    finally:
        # On its way out Python looks for garbage several times, half a second among torch's objects; all goes anyway.
        gc.freeze()


def _replace_closed_streams() -> None:
    """Put streams that cannot be used in place of closed ones, whose numbers the next files would get."""
    # What is said may go nowhere, but data must not: reading and writing the other two fails.
    for number, (name, mode, flag) in enumerate(
        (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY))
    ):
        if getattr(sys, name) is None:
            os.open(os.devnull, flag)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - it is open as long as the process


def _do_without_home() -> None:
    """Give a user without a home, as containers have them, one that caches are not written to."""
    if not os.path.isabs(os.path.expanduser("~")):
        os.environ["HOME"] = NOWHERE
        os.environ.setdefault("USER", str(os.getuid()))


if __name__ == "__main__":
    main()
