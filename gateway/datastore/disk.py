"""The last good snapshot on disk: written whole under another name and renamed, read when a process starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from gateway.datastore.model import Endpoint, Route, Server
from gateway.datastore.replica import E_, R_, S_, Replica, Unusable, load
from gateway.datastore.wire import WireError, from_bytes, to_bytes, whole

FILE_NAME = "last-snapshot"

Content = tuple[Iterable[Route], Iterable[Server], Iterable[Endpoint]]

logger = logging.getLogger(__name__)


def save(epoch: int, sequence: int, content: Content, run_directory: Path) -> None:
    """Keep a world's decided objects. Called in a thread: it works on what it was given alone."""
    data = to_bytes(whole(epoch, sequence, *content))
    draft = run_directory / f"{FILE_NAME}.{os.getpid()}.new"
    draft.write_bytes(data)
    draft.replace(run_directory / FILE_NAME)


def restore(replica: Replica[E_, S_, R_], run_directory: Path) -> bool:
    """Bring a fresh replica to the world on disk; False when there is none.

    Raises WireError when it is damaged, OSError, and Unusable when this process cannot serve it.
    """
    try:
        data = (run_directory / FILE_NAME).read_bytes()
    except FileNotFoundError:
        return False
    frames = list(from_bytes(data))
    if not frames or frames[-1].counts is None:
        raise WireError("the snapshot on disk has no end mark")
    load(replica, iter(frames))
    if (replica.world.epoch, replica.world.sequence) != (frames[-1].epoch, frames[-1].sequence):
        raise WireError("the snapshot on disk lacks some of its parts")
    return True


def restore_if_possible(replica: Replica[E_, S_, R_], run_directory: Path) -> str:
    """Bring a fresh replica to the world on disk, or log and return why it stays empty: a process starts either way."""
    try:
        restore(replica, run_directory)
    except (WireError, OSError, Unusable) as error:
        logger.warning("the snapshot on disk cannot be used, starting without: %s", error)
        return str(error)
    return ""
