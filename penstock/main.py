"""The entry point: a command is imported when it is called, so that ``penstock version`` does not pay for the gateway."""

from __future__ import annotations

import importlib
import sys

import click

_COMMANDS = {
    "demo": ("penstock.commands.demo", "Start the gateway and four simulated engines, to try it."),
    "run": ("penstock.commands.run", "Serve what a folder of YAML says."),
    "gateway": ("penstock.commands.gateway", "Run the data plane alone."),
    "controllers": ("penstock.commands.controllers", "Run the sidecar alone: publish what a folder says."),
    "sim": ("penstock.commands.sim", "Run simulated engines."),
    "get": ("penstock.commands.get", "Show what a running gateway serves."),
    "explain": ("penstock.commands.explain", "Show where a request would go, and why."),
    "version": ("penstock.commands.version", "Show the version."),
}


class UserError(click.ClickException):
    """Something that the user can mend, with how."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Commands(click.Group):
    """The commands by name, imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a first visit."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import it."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def penstock() -> None:
    """The gate in front of a fleet of LLM engines.

    \b
    penstock demo                 try it on this machine, with simulated engines
    penstock run -f DIR           serve your own engines
    """


def main() -> None:
    """Run a command; errors in two lines, exit status 0, 1 (failed), 2 (usage) or 130 (interrupted)."""
    try:
        penstock.main(prog_name="penstock", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx is not None else "")
        sys.exit(2)
    except UserError as error:
        _complain(error.message, error.hint)
        sys.exit(1)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "penstock"
        _complain(error.format_message().rstrip("."), f"`{path} --help` shows how")
        sys.exit(2)
    except click.ClickException as error:
        _complain(error.format_message(), "")
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)


def _complain(message: str, hint: str) -> None:
    click.echo(f"error: {message.rstrip('.')}", err=True)
    if hint:
        click.echo(f"\nhint: {hint}", err=True)
