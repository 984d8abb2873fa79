"""A gateway with two workers and two quick engines, for tests that leave them as they were."""

import pytest

from tests.support import config
from tests.support.engines import Engines
from tests.support.gateway import Gateway


@pytest.fixture(scope="module")
def engines():
    """Two engines, ten times as fast as real ones."""
    with Engines(2, adapters=("demo-sql",), speed=10) as started:
        yield started


@pytest.fixture(scope="module")
def gateway(engines, tmp_path_factory):
    """Penstock in front of both."""
    text = config.server("demo", engines.ports) + config.route("demo", loraAdapters=["demo-sql"])
    with Gateway(tmp_path_factory.mktemp("gw"), {"demo.yaml": text}) as started:
        yield started
