"""``penstock controllers``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from gateway.settings import Settings
from penstock.main import UserError
from penstock.options import directory_of, read_settings
from penstock.process import log_to_stderr, on_stop_signals


@click.command()
@click.option(
    "-f", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True, help="Folder of YAML."
)
@click.option("--run-directory", default=None, metavar="DIR", help="The gateway's run directory.")
@click.option("--upstream-ca-file", default=None, metavar="FILE", help="PEM authorities that engines are verified by.")
def command(folder: Path, run_directory: str | None, upstream_ca_file: str | None) -> None:
    """Run the sidecar alone: publish what a folder of YAML says, and scrape its engines.

    \b
    penstock controllers -f ./config
    """
    from controllers.network.sidecar import AlreadyRunning, Sidecar
    from controllers.store.folder import FolderStore
    from controllers.store.last_good import LastGood

    given = {"setting_run_directory": run_directory, "setting_upstream_ca_file": upstream_ca_file}
    settings: Settings = read_settings(given, None)
    log_to_stderr()
    directory = directory_of(settings)
    store = FolderStore(folder, _report, LastGood(directory, folder, _report))
    sidecar = Sidecar(store, directory, settings.upstream_ca_file)

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        on_stop_signals(task.cancel)
        await sidecar.run()

    try:
        asyncio.run(run())
    except asyncio.CancelledError:
        pass
    except AlreadyRunning as error:
        raise UserError(str(error), "stop them, or give another --run-directory") from error


def _report(line: str) -> None:
    click.echo(line, err=True)
