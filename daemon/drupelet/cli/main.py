"""``drupelet``: from a command line to an exit code.

Decides what reaches a person when something fails: never a traceback (``--debug`` shows it), always
what, why and the mend. Ctrl-C ends with 130, a reader that went away with 141, as a shell reports
these signals.

Imports are lazy: `drupelet status` loads the blocking client and neither trio nor argparse.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from drupelet.cli import output
from drupelet.cli.grammar import Request, UsageError, general_help, parse, verb_help
from drupelet.cli.verbs import VERBS
from drupelet.errors import EXIT_DONE, EXIT_FAILED, DrupeletError

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT
EXIT_BROKEN_PIPE: Final = 141  # 128 + SIGPIPE


def main(argv: list[str] | None = None) -> int:
    """The console script. Returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        code = _main(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        output.quiet_stdout()
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BaseExceptionGroup as group:  # of a nursery that Ctrl-C went through
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        return EXIT_INTERRUPTED
    return code


def _main(argv: list[str]) -> int:
    options = argv[: argv.index("--")] if "--" in argv else argv
    json, debug = "--json" in options, "--debug" in options
    try:
        if not argv:
            output.note(general_help(VERBS))
            return 2
        return run_verb(parse(argv, VERBS))
    except BrokenPipeError:
        raise
    except (UsageError, DrupeletError) as error:
        if debug:
            _show_traceback(error)
        return output.failure(error, json=json)
    except Exception as error:
        if isinstance(error, ExceptionGroup) and error.subgroup(BrokenPipeError) is not None:
            raise BrokenPipeError from None
        return _unexpected(error, json=json, debug=debug)


def run_verb(request: Request) -> int:
    """Import the verb's handler and run it; its exit code."""
    import importlib

    module, _, function = request.verb.handler.partition(":")
    handler: Callable[[Request], int] = getattr(
        importlib.import_module(f"drupelet.cli.{module}"), function
    )
    return handler(request)


def help_verb(request: Request) -> int:
    """``help [VERB]``, ``--help``."""
    name = request.argument(0)
    if not name:
        output.line(general_help(VERBS))
        return EXIT_DONE
    if name not in VERBS:
        raise UsageError(f"unknown verb {name!r}; the verbs are: {', '.join(VERBS)}")
    output.line(verb_help(VERBS[name]))
    return EXIT_DONE


def _unexpected(error: Exception, *, json: bool, debug: bool) -> int:
    if debug:
        _show_traceback(error)
    if json:
        output.document(
            {"error": {"kind": "Internal", "message": f"{type(error).__name__}: {error}"}}
        )
        return EXIT_FAILED
    output.note(f"drupelet: internal error: {type(error).__name__}: {error}")
    if not debug:
        output.note(
            "mend: run it again with --debug and report what it prints, with `drupelet version`"
        )
    return EXIT_FAILED


def _show_traceback(error: Exception) -> None:
    import traceback

    output.note("".join(traceback.format_exception(error)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
