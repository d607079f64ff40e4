"""The one door between the commands and the shell: exceptions become exit codes here.

Law: whatever happens inside, a user sees one message with what to do next, never a traceback;
`--json` puts it on stdout as `{"error": {"code", "message", "hint"}}`. Where several codes apply,
the first of 4, 3, 2, 5, 1 wins.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import NoReturn

import click

from flux_pg.cli.style import Style, for_stream
from flux_pg.errors import FluxError

_EXIT_ORDER = (4, 3, 2, 5, 1)
_INTERRUPTED = 130
_REPORT = "This is a bug in Flux. Run it again with FLUX_DEBUG=1 and report what it prints."


def main() -> NoReturn:
    """Run the command line in `sys.argv` and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    from flux_pg.cli.root import cli

    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json = "--json" in own
    try:
        code = cli.main(args=list(arguments), prog_name="flux", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except BrokenPipeError:
        # `flux tail | head`: the reader has enough. Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as stop:
        # What click makes of a reader that has enough, in the middle of the output.
        has_enough = type(sys.stdout).__name__.endswith("PacifyFlushWrapper")
        return 0 if has_enough else stop.code if isinstance(stop.code, int) else 1
    except (KeyboardInterrupt, click.Abort):
        return _interrupted()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        return show_error(_from_click(error), as_json)
    except BaseExceptionGroup as group:
        return _report_group(group, as_json)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT):
            return show_error(_translated(error), as_json)
        # Python would complain again when it flushes what it could not write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return show_error(_unwritten(error), as_json=False)
    except Exception as error:
        return show_error(_translated(error), as_json)


def _unwritten(error: OSError) -> FluxError:
    return FluxError(
        f"the output cannot be written: {error.strerror}", "Free some disk space.", code="output"
    )


def _interrupted() -> int:
    with contextlib.suppress(OSError):
        click.echo(err=True)
    return _INTERRUPTED


def _from_click(error: click.ClickException) -> FluxError:
    wrapped = FluxError(error.format_message(), code="usage")
    wrapped.exit_code = 2
    if isinstance(error, click.UsageError) and error.ctx is not None:
        wrapped.hint = f"See `{error.ctx.command_path} --help`."
    return wrapped


def _translated(error: Exception) -> FluxError:
    if isinstance(error, FluxError):
        return error
    import psycopg

    if isinstance(error, psycopg.Error):
        from flux_pg.cli.session import translate

        return translate(error)
    return _bug(error)


def _bug(error: BaseException) -> FluxError:
    """Describe an exception that nobody foresaw, in a line; the trace only if asked for."""
    if os.environ.get("FLUX_DEBUG"):
        traceback.print_exception(error)
    text = str(error).strip().splitlines()
    summary = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
    return FluxError(f"unexpected {summary}", _REPORT, code="internal")


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _report_group(group: BaseExceptionGroup[BaseException], as_json: bool) -> int:
    """Report what a nursery raised: the error whose exit code counts most."""
    leaves = list(_leaves(group))
    if any(isinstance(error, KeyboardInterrupt) for error in leaves):
        return _interrupted()
    known = [
        _translated(error) if isinstance(error, Exception) else _bug(error) for error in leaves
    ]
    known.sort(key=lambda error: (error.code == "internal", _EXIT_ORDER.index(error.exit_code)))
    return show_error(known[0], as_json)


def show_error(error: FluxError, as_json: bool) -> int:
    """Print one error: JSON on stdout, or a message with its hint on stderr."""
    if as_json:
        document = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
        click.echo(json.dumps(document, ensure_ascii=False))
        return error.exit_code
    style: Style = for_stream(sys.stderr)
    with contextlib.suppress(OSError):
        click.echo(f"{style.bad('flux:')} {error.message}", err=True)
        if error.hint:
            click.echo(f"{style.dim('hint:')} {error.hint}", err=True)
    return error.exit_code
