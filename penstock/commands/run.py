"""``penstock run``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.addresses import url
from penstock.options import directory_of, gateway_options, read_settings
from penstock.process import log_to_stderr

if TYPE_CHECKING:
    from penstock.programs import Running


@click.command()
@click.option(
    "-f", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True, help="Folder of YAML."
)
@gateway_options
def command(folder: Path, config_file: Path | None, **options: Any) -> None:
    """Serve what a folder of YAML says; a changed file is applied at once.

    \b
    penstock run -f ./config
    penstock run -f ./config --port 9000 --workers 4
    """
    from penstock.programs import Child, serve

    settings = read_settings(options, config_file)
    directory = directory_of(settings)
    log_to_stderr()

    async def ready(running: Running) -> None:
        click.echo(f"penstock serves {folder} on {url(settings.host, running.port)}/v1", err=True)
        click.echo(f"  page and metrics: {url(settings.admin_host, running.admin_port)}/", err=True)

    words = ["controllers", "-f", str(folder), "--run-directory", str(directory)]
    if settings.upstream_ca_file:
        words += ["--upstream-ca-file", settings.upstream_ca_file]
    controllers = Child("controllers", tuple(words))
    asyncio.run(serve(settings, directory, (controllers,), ready))
