"""``penstock gateway``."""

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
@gateway_options
def command(config_file: Path | None, **options: Any) -> None:
    """Run the data plane alone: it serves what controllers publish in the same run directory.

    \b
    penstock gateway --port 8080 --workers 2
    PENSTOCK_PORT=9000 penstock gateway --config settings.yaml
    """
    from penstock.programs import serve

    settings = read_settings(options, config_file)
    log_to_stderr()

    async def ready(running: Running) -> None:
        where = url(settings.host, running.port)
        click.echo(f"penstock serves on {where}/v1, run directory {running.directory}", err=True)

    asyncio.run(serve(settings, directory_of(settings), (), ready))
