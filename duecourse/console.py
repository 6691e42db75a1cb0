"""What the person at the terminal sees: progress on stderr, results on stdout, colour only on a terminal."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, ParamSpec

import typer

from functions.core.errors import DuecourseError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

DEBUG_VARIABLE = "DUECOURSE_DEBUG"
FAILED = 1
INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended: 128 + SIGINT."""
WIDEST = 10_000

P = ParamSpec("P")


@cache
def out() -> Console:
    """Results: what a script would read."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


@cache
def err() -> Console:
    """Progress, warnings and errors."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def show(renderable: RenderableType) -> None:
    """Tables on stdout as wide as they need: cells are never folded, so that lines can be copied and searched."""
    from rich.console import Console
    from rich.measure import Measurement

    console = out()
    wanted = Measurement.get(console, console.options.update(width=WIDEST), renderable).maximum
    Console(width=max(wanted, console.width), highlight=False).print(renderable, crop=False, no_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout, never coloured or wrapped."""
    print(json.dumps(value, indent=2, default=str))


@contextmanager
def step(title: str) -> Iterator[Callable[[str], None]]:
    """Show that `title` is under way, and how long it took; call the result to add what came of it.

    A spinner on a terminal, one plain line at the end elsewhere.
    """
    notes: list[str] = []
    started = time.monotonic()
    if err().is_terminal:
        with err().status(title):
            yield notes.append
    else:
        yield notes.append
    seconds = time.monotonic() - started
    err().print("[green]✓[/]", f"{title}: {'; '.join(notes)}" if notes else title, f"[dim]({seconds:.1f} s)[/]")


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Turn what a command raises into one sentence on stderr and an exit code; `--debug` shows the traceback."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except KeyboardInterrupt:
            err().print("\nInterrupted. What has started keeps running: `duecourse down` stops it.", markup=False)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # the reader of a pipe has seen enough, as in `duecourse logs relay | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(FAILED) from None
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:  # the last stop before the terminal
            if os.environ.get(DEBUG_VARIABLE):
                raise
            err().print("[red]Error:[/]", _sentence(error))
            raise typer.Exit(FAILED) from None

    return wrapper


def _sentence(error: Exception) -> str:
    from rich.markup import escape

    if isinstance(error, DuecourseError):
        return escape(str(error))
    words = " ".join(str(error).split())
    return escape(f"{type(error).__name__}: {words}: `duecourse --debug …` shows where")
