"""`python -m emu.host [--refresh]`: this machine's memories as a table, measured again if asked."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from emu import host_file, host_table, report
from emu.errors import EmuError
from emu.host import host, host_stack
from emu.machine import machine


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are one line, as everything else that is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help tells what can be asked for\n")


def main(arguments: Sequence[str]) -> int:
    """Print the table; 1 where the machine cannot be measured."""
    parser = _Parser(
        prog="python -m emu.host",
        description="This machine's memories as a table, as emu.host() measured them.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--refresh", action="store_true", help="measure again what was measured before"
    )
    refresh = parser.parse_args(arguments).refresh
    try:
        path = host_file.path_of(machine())
        chip = host(refresh=refresh)
        print(report.text(host_table.page(chip, host_stack(), path)), end="")
    except (EmuError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
