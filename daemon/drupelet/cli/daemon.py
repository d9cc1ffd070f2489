"""``drupeletd``: the daemon's command line.

Decides the flags, where the log goes (stderr; under systemd without dates, the journal has them)
and the exit codes: 0 stopped in order, 2 usage, 78 bad configuration (the unit does not restart on
it).
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
from pathlib import Path

from drupelet import __version__
from drupelet.cli import output
from drupelet.errors import EXIT_BAD_CONFIGURATION, EXIT_DONE, EXIT_FAILED, ConfigError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LEVELS = ("debug", "info", "warning", "error")
_EXAMPLES = """examples:
  drupeletd --config /etc/drupelet/drupelet.toml
  drupeletd --config drupelet.toml --check-config     print the effective values, or what is wrong

exit codes: 0 stopped in order, 1 failed, 2 usage, 78 bad configuration
"""


def main(argv: list[str] | None = None) -> int:
    """The console script. Returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments)
    except ConfigError as error:
        output.note(f"drupeletd: {error}")
        return EXIT_BAD_CONFIGURATION
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        output.quiet_stdout()
        return 141
    except BaseException as error:
        if isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt) is not None:
            return 130  # Ctrl-C before the node took over the signals
        if arguments.log_level == "debug" or isinstance(error, SystemExit):
            raise
        logging.getLogger("drupelet").critical("internal_error", exc_info=error)
        output.note(
            "drupeletd: internal error: please report the traceback above, with `drupelet version`"
        )
        return EXIT_FAILED


def _run(arguments: argparse.Namespace) -> int:
    from drupelet.config import load, to_toml

    config = load(arguments.config)
    if arguments.cookie_file is not None:
        link = dataclasses.replace(config.link, cookie_file=arguments.cookie_file.absolute())
        config = dataclasses.replace(config, link=link)
    if arguments.check_config:
        from drupelet.services.mission_files import read_missions

        read_missions(config.missions.dir)
        output.write(to_toml(config))
        return EXIT_DONE
    if arguments.parent is not None and not die_with(arguments.parent):
        return EXIT_FAILED
    start_log(arguments.log_level)
    from drupelet.node import run_node

    return run_node(config)


def start_log(level: str, *, terse: bool = False) -> None:
    """Log to stderr. `terse` (or systemd's journal, which has dates itself): without dates."""
    dated = not terse and "JOURNAL_STREAM" not in os.environ
    logging.basicConfig(
        level=level.upper(),
        format=f"{'%(asctime)s ' if dated else ''}%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )
    logging.captureWarnings(True)


def die_with(parent: int) -> bool:
    """Have the kernel kill this process when its parent ends. False: the parent is gone already."""
    import ctypes  # 1 MB that only the demo's nodes pay
    import signal

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    return os.getppid() == parent


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="drupeletd",
        description="Run one Drupelet node in the foreground.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", help="drupelet.toml (default: built-in values)")
    add("--check-config", action="store_true", help="print the effective values and end")
    add("--cookie-file", type=Path, metavar="PATH", help="instead of [link] cookie_file")
    add("--log-level", choices=_LEVELS, default="info", help="how much to log (default: info)")
    add("--parent", type=int, metavar="PID", help="end when this process, the parent, ends")
    add("--version", action="version", version=f"drupeletd {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
