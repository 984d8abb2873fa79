"""``penstock version``."""

from __future__ import annotations

import json
import platform

import click

from penstock import __version__


@click.command()
@click.option("--short", is_flag=True, help="The number alone.")
@click.option("-o", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def command(short: bool, output: str) -> None:
    """Show the version.

    \b
    penstock version --short
    penstock version -o json
    """
    found = {
        "version": __version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
    }
    if output == "json":
        click.echo(json.dumps({"version": __version__} if short else found, indent=2))
    elif short:
        click.echo(__version__)
    else:
        click.echo(f"penstock {__version__} (Python {found['python']}, {found['system']} {found['machine']})")
