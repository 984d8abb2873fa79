"""The gateway's settings as flags of a command, with their help, and every fault of them in one complaint."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gateway import settings as gateway_settings
from gateway.settings import Settings, SettingsError
from penstock.main import UserError
from penstock.settings_help import Setting, all_settings

_VISIBLE = ("host", "port", "admin_port", "workers", "run_directory", "insecure_no_auth")
_NAMED = re.compile(r"`([\w.]+)` must ")


def gateway_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Every setting of the gateway as a flag; the rarely used ones are in the help of ``--help-all`` alone."""
    command = click.option(
        "--help-all", is_flag=True, is_eager=True, expose_value=False, callback=_show_all,
        help="Show this message with the rarely used settings.",
    )(command)  # fmt: skip
    for setting in reversed(all_settings()):
        command = _option(setting)(command)
    return click.option(
        "--config", "config_file", type=click.Path(dir_okay=False, path_type=Path), help="YAML file of settings."
    )(command)


def _option(setting: Setting) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    flag = "--" + setting.name.replace(".", "-").replace("_", "-")
    default = f"  [default: {setting.shown_default}]" if setting.shown_default else ""
    common: dict[str, Any] = {
        "default": None,
        "hidden": setting.name not in _VISIBLE,
        "help": setting.text.replace("``", "`") + default,
    }
    destination = "setting_" + setting.name.replace(".", "__")
    if setting.kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", destination, **common)
    return click.option(flag, destination, metavar="VALUE", **common)


def _show_all(context: click.Context, _: click.Parameter, is_wanted: bool) -> None:
    if not is_wanted or context.resilient_parsing:
        return
    whole = copy.copy(context.command)
    whole.params = [copy.copy(parameter) for parameter in whole.params]
    for parameter in whole.params:
        if isinstance(parameter, click.Option):
            parameter.hidden = False
    click.echo(whole.get_help(context))
    context.exit()


def read_settings(options: dict[str, Any], config_file: Path | None) -> Settings:
    """Settings from the flags of :func:`gateway_options`, environment and file. Raises UserError with every fault."""
    flags = {
        name.removeprefix("setting_").replace("__", "."): value
        for name, value in options.items()
        if name.startswith("setting_") and value is not None
    }
    try:
        return gateway_settings.load(flags, None, config_file)
    except SettingsError as error:
        faults = _once_each(error.faults)
        text = faults[0] if len(faults) == 1 else "\n  ".join([f"{len(faults)} settings cannot be used", *faults])
        raise UserError(text, "`penstock gateway --help-all` lists the settings") from error


def _once_each(faults: list[str]) -> list[str]:
    """The faults without those that say of a setting in other words what an earlier one said of it."""
    found: dict[str, str] = {}
    for fault in faults:
        named = _NAMED.match(fault)
        found.setdefault(named[1] if named is not None else fault, fault)
    return list(found.values())


def directory_of(settings: Settings) -> Path:
    """The run directory. Raises UserError."""
    try:
        return gateway_settings.run_directory(settings)
    except SettingsError as error:
        raise UserError(str(error), "give another with --run-directory") from error
    except OSError as error:
        raise UserError(f"the run directory cannot be used: {error}", "give another with --run-directory") from error
