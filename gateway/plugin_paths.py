"""Where the plugins are that a setting names."""

from __future__ import annotations


def named_paths(setting: str) -> list[tuple[str, str]]:
    """The parts of ``scheduling_plugins``. Raises ValueError, which names the part that is wrong."""
    found = []
    for part in setting.split():
        name, equals, path = part.partition("=")
        module, colon, attribute = path.partition(":")
        dotted = [*module.split("."), *attribute.split(".")]
        if not (name and equals and colon and all(one.isidentifier() for one in dotted)):
            raise ValueError(f"`{part}` must be name=module:attribute, such as mine=my_package.scheduling:Mine")
        found.append((name, path))
    return found
