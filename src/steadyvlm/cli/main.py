"""`steadyvlm`: the group of commands, and the one place where an error becomes a line and an exit code.

Exit codes: 0 done, 1 a gate was not passed, 2 the request or its input is wrong, 3 something failed while running,
130 interrupted. A known error is printed as one message; an unexpected one too, and `--debug` adds the traceback.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import click

import steadyvlm
from steadyvlm.cli.answer import answer
from steadyvlm.cli.calibrate import calibrate
from steadyvlm.cli.calibration_set import calibration_set
from steadyvlm.cli.compare import compare
from steadyvlm.cli.demo import demo
from steadyvlm.cli.lid import lid
from steadyvlm.cli.list import list_names
from steadyvlm.cli.perturb import perturb
from steadyvlm.cli.pocket import pocket
from steadyvlm.cli.quantize import quantize
from steadyvlm.cli.report import report
from steadyvlm.cli.run import run
from steadyvlm.cli.show import show
from steadyvlm.cli.status import status
from steadyvlm.cli.system import system
from steadyvlm.cli.train import train
from steadyvlm.errors import MissingDependency, SteadyVLMError, UnknownName

EXTRAS = {
    "models": ("torch", "transformers", "tokenizers", "safetensors"),
    "int8": ("accelerate", "bitsandbytes"),
    "perturb": ("cv2", "nltk", "textblob", "lemminflect"),
    "pocket-train": ("matplotlib", "sklearn"),
}
"""Which extra brings a library that not every command needs."""

OK, GATE_FAILED, BAD_REQUEST, FAILED, INTERRUPTED = 0, 1, 2, 3, 130


@dataclass
class Settings:
    """What the options before the command say."""

    debug: bool = False


class Commands(click.Group):
    """A group that lists its commands in the order they are used and suggests the nearest name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order they were added."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or refuse with the nearest name."""
        if not args[0].startswith("-") and args[0] not in self.commands:
            raise UnknownName.among("command", args[0], self.commands)
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 gate not passed, 2 bad request or input, 3 failed while running, 130 interrupted.",
)
@click.version_option(
    steadyvlm.__version__, "-V", "--version", package_name="steadyvlm", message="steadyvlm %(version)s"
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_obj
def cli(settings: Settings, debug: bool) -> None:
    """Accelerate a vision-language model, and see which of its answers changed.

    \b
    Start here:
      steadyvlm demo                                    a trained model, six accelerations, one report
      steadyvlm compare original.jsonl fast.jsonl       two answer logs you already have
      steadyvlm run study.yaml                          your own model and questions
    """
    settings.debug = debug


for _command in (
    demo,
    run,
    status,
    compare,
    report,
    show,
    answer,
    perturb,
    lid,
    list_names,
    pocket,
    calibrate,
    quantize,
    system,
    calibration_set,
    train,
):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    >>> main(["--version"])
    steadyvlm 0.1.0
    0
    """
    settings = Settings()
    with warnings.catch_warnings():
        warnings.showwarning = partial(_show_warning, settings)
        return _run(arguments, settings)


def _run(arguments: Sequence[str] | None, settings: Settings) -> int:
    try:
        result = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="steadyvlm",
            standalone_mode=False,
            obj=settings,
        )
    except SteadyVLMError as error:
        return _say(error, settings, error.exit_code)
    except ModuleNotFoundError as error:
        known = _missing(error)
        return _say(known, settings, known.exit_code) if known else _say(error, settings, FAILED)
    except click.Abort:
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return BAD_REQUEST
    except SystemExit:  # only click's answer to a reader of our output (`| head`) that has seen enough
        return OK
    except Exception as error:  # the last line of defence: no user should have to read a traceback
        return _say(error, settings, FAILED)
    return result if isinstance(result, int) else OK


def _missing(error: ModuleNotFoundError) -> MissingDependency | None:
    """Return the error that names the extra to install, for a library that is optional."""
    library = (error.name or "").partition(".")[0]
    for extra, libraries in EXTRAS.items():
        if library in libraries:
            return MissingDependency(
                f"this command needs {library}, which is not installed. Install it: pip install 'steadyvlm[{extra}]'"
            )
    return None


def _say(error: Exception, settings: Settings, code: int) -> int:
    if settings.debug:
        traceback.print_exception(error)
        return code
    click.echo(f"{type(error).__name__}: {error}", err=True)
    if not isinstance(error, SteadyVLMError):
        click.echo("This was not expected. `steadyvlm --debug …` shows where it happened; please report it.", err=True)
    return code


def _show_warning(settings: Settings, message: Warning | str, category: type[Warning], *place: Any) -> None:
    """Show what steadyvlm itself warns about, as a sentence; other libraries' warnings only with `--debug`."""
    if settings.debug or category.__module__.startswith("steadyvlm."):
        click.echo(f"Warning: {message}", err=True)
