"""What requests leave in a worker's memory: nothing."""

import time

import pytest

from tests.faults.load import MixedClients
from tests.faults.test_soak import at_rest
from tests.support import config
from tests.support.engines import Engines
from tests.support.gateway import Gateway

CLIENTS = 12
WARM_UP_SECONDS = 2.0
SECONDS = 4.0
IN_HAND_BYTES = 2 << 20
"""What the allocator may keep."""
MOST_BYTES = 700
"""What a request may leave beside that; one that stays known takes several thousand."""


@pytest.mark.crowd
def test_requests_leave_nothing_in_a_workers_memory(tmp_path):
    with (
        Engines(2, speed=20) as engines,
        Gateway(tmp_path, {"demo.yaml": config.simple("demo", engines.ports)}, workers=1, access_log=False) as gateway,
        MixedClients(gateway.port, CLIENTS) as clients,
    ):
        time.sleep(WARM_UP_SECONDS)
        before, asked_before = at_rest(gateway, clients)["workers"], clients.asked
        time.sleep(SECONDS)
        after, asked = at_rest(gateway, clients)["workers"], clients.asked - asked_before
    assert asked > 200
    assert (after["bytes"] - before["bytes"] - IN_HAND_BYTES) / asked < MOST_BYTES, (before, after, asked)
    assert after["descriptors"] <= before["descriptors"] + 8
