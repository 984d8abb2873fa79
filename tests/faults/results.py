"""What a long run found, kept with its date."""

import json
import os
import platform
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"


def write_result(name, facts, directory=RESULTS):
    """Write ``facts`` as JSON and as a table of Markdown, named after today: the path of the JSON."""
    directory.mkdir(parents=True, exist_ok=True)
    date = time.strftime("%Y-%m-%d")
    content = {"date": date, "commit": _commit(), "machine": _machine(), **facts}
    path = directory / f"{name}-{date}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    rows = "".join(f"| {key} | {_shown(value)} |\n" for key, value in content.items())
    path.with_suffix(".md").write_text(f"# {name}, {date}\n\n| what | found |\n|---|---|\n{rows}")
    return path


def _shown(value):
    return ", ".join(f"{key}: {one}" for key, one in value.items()) if isinstance(value, dict) else value


def _commit():
    asked = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def _machine():
    return f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
