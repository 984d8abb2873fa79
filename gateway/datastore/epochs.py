"""Epochs that only rise in a run directory, and the one number of them that orders all worlds which it has seen.

A publisher takes a new epoch when it starts. Limits in shared memory keep the generation that brought them, and ignore whoever brings
an earlier one; so a later world must have a larger generation, also when the publisher was restarted at once or the clock went back.
"""

from __future__ import annotations

import logging
from pathlib import Path

FILE_NAME = "last-epoch"
LONGEST_EPOCH = 1 << 32
"""Changes that an epoch has room for: the distance between two epochs at least. In 34 years there are four changes a second."""
_LARGEST = (1 << 64) - 1

logger = logging.getLogger(__name__)


def next_epoch(run_directory: Path, now: int) -> int:
    """The epoch of a publisher that starts, on record before it is used; ``now`` in wall-clock nanoseconds.

    The caller holds the lock of the controllers. A record that cannot be read or written is logged: then the clock alone is followed.
    """
    record = run_directory / FILE_NAME
    epoch = max(now, _recorded(record) + LONGEST_EPOCH)
    draft = record.with_suffix(".new")
    try:
        draft.write_text(f"{epoch}\n")
        draft.replace(record)  # not synced: what outlives a crash of the machine is no shared memory either
    except OSError as error:
        logger.warning("the epoch cannot be kept on disk: %s", error)
    return epoch


def generation(epoch: int, sequence: int) -> int:
    """The place of a world among all of its run directory, in 64 bits: the same in every process, larger for a later world.

    An epoch is at least :data:`LONGEST_EPOCH` above the one before it, or above it by the nanoseconds that this lasted; a publisher
    makes fewer changes than either. So the sum of epoch and sequence never reaches the next epoch.
    """
    return min(epoch + sequence, _LARGEST)


def _recorded(record: Path) -> int:
    try:
        epoch = int(record.read_text())
        if not 0 <= epoch <= _LARGEST >> 1:
            raise ValueError(f"{epoch} is no time in nanoseconds")
    except FileNotFoundError:
        return -LONGEST_EPOCH
    except (OSError, ValueError) as error:
        logger.warning("the last epoch cannot be read: %s", error)
        return -LONGEST_EPOCH
    return epoch
