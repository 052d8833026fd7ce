"""How the command lines end: one clear line for what a user can mend, a traceback for what only we can."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

RESUME = "interrupted; run.resume=true goes on from the last complete checkpoint"


def only_given(parser: argparse.ArgumentParser, args: argparse.Namespace, allowed: Sequence[str]) -> None:
    """Raises ValueError naming the first option given that is not for what the tool does."""
    not_given(parser, args, [name for name in vars(args) if name not in allowed])


def not_given(parser: argparse.ArgumentParser, args: argparse.Namespace, names: Sequence[str]) -> None:
    for name in names:
        if getattr(args, name) != parser.get_default(name):
            raise ValueError(f"--{name.replace('_', '-')} is not for this kind of model")


def run(main: Callable[[], int | None], interrupted: str = RESUME) -> None:
    """Exit status 2 and `error: ...` for a ValueError or an OSError, 130 when interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        sys.exit(main())
    except (ValueError, FloatingPointError, OSError) as error:
        text = str(error)
        if "Original Traceback" in text:  # from a data loading process
            text = text.strip().splitlines()[-1].partition(": ")[2]
        print(f"error: {text}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        sys.exit(130)
