"""Writes docs/settings.md from the classes of gateway.settings; with --check says whether it is up to date."""

import sys
from pathlib import Path

from gateway.settings import PREFIX
from penstock.settings_help import Setting, all_settings

ROOT = Path(__file__).parents[1]
HEAD = """\
# Settings of the gateway

A flag wins over the environment, the environment over the file of `--config`, the file over the default. Every fault is reported at once.
`shared_memory.slots` in the file is `PENSTOCK_SHARED_MEMORY_SLOTS` in the environment and `--shared-memory-slots` as a flag.
`$PENSTOCK_RUN_DIR` is short for `PENSTOCK_RUN_DIRECTORY`. Made by `tools/document_settings.py`.

"""


def row(setting: Setting) -> str:
    """One row of the table."""
    return f"| `{setting.name}` | {setting.shown_default} | {setting.text} |"


def main() -> None:
    """The script."""
    table = "\n".join(["| setting | default | meaning |", "|---|---|---|", *map(row, all_settings())])
    page, file = f"{HEAD}{table}\n", ROOT / "docs" / "settings.md"
    if "--check" in sys.argv:
        if not file.exists() or file.read_text() != page:
            sys.exit(
                f"error: docs/settings.md is out of date\n\nhint: run tools/document_settings.py ({PREFIX}* settings changed)"
            )
    else:
        file.write_text(page)


main()
