"""``python -m torchlayer info`` and ``python -m torchlayer demo``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m torchlayer", description="Inspect torchlayer, or see it work.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{info,demo}")
    info = "print versions, devices and backends, and test each kernel against plain PyTorch"
    commands.add_parser(
        "info",
        help=info,
        description=f"{info[0].upper()}{info[1:]}. The kernels are compiled first, if they never were. "
        "Paste the output into a bug report.",
    )
    commands.add_parser("demo", help="train a small model and draw what it learned", add_help=False)
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command == "demo":
        from . import _demo

        return _demo.main(rest) or 0
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    from . import _info

    try:
        return _info.main()
    except ValueError as error:  # a misspelt environment variable
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
