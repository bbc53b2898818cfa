"""``python -m torchlayer info``, ``python -m torchlayer demo`` and ``python -m torchlayer convert``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m torchlayer", description="Inspect torchlayer, or see it work.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{info,demo,convert}")
    info = "print versions, devices and backends, and test each kernel against plain PyTorch"
    commands.add_parser(
        "info",
        help=info,
        description=f"{info[0].upper()}{info[1:]}. The kernels are compiled first, if they never were. "
        "Paste the output into a bug report.",
    )
    commands.add_parser("demo", help="train a small model and draw what it learned", add_help=False)
    convert = commands.add_parser(
        "convert",
        help="make a plain .npz of a pickled one of TensorLayer 1.x, without executing what is in it",
        description="Make a plain .npz of a pickled one of TensorLayer 1.x. Nothing in it is executed: the few opcodes "
        "that describe arrays are read, in a process whose memory and time are bounded, and any others refused.",
    )
    convert.add_argument("old", help="the file of TensorLayer 1.x")
    convert.add_argument("new", help="the file to write")
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command == "demo":
        from . import _demo

        return _demo.main(rest) or 0
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if arguments.command == "convert":
        return _convert(arguments.old, arguments.new)
    from . import _info

    try:
        return _info.main()
    except ValueError as error:  # a misspelt environment variable
        parser.error(str(error))


def _convert(old: str, new: str) -> int:
    from .files import convert_npz

    try:
        arrays = convert_npz(old, new)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for i, array in enumerate(arrays):
        print(f"param {i:3}: {array.shape!s:20} {array.dtype}")
    print(f"[*] {new} saved; load_and_assign_npz puts it into a network by position")
    return 0


if __name__ == "__main__":
    sys.exit(main())
