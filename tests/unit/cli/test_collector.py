"""What `twogate serve` tells Python's cycle collector."""

import gc
from collections.abc import Iterator

import pytest

from twogate.cli.serve import COLLECT_AFTER, spare_the_collector


@pytest.fixture
def _collector_as_before() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()


@pytest.mark.usefixtures("_collector_as_before")
def test_what_exists_at_the_start_is_not_walked_again_and_garbage_is_still_found() -> None:
    before = gc.get_freeze_count()
    spare_the_collector()
    assert gc.get_freeze_count() > before
    assert gc.get_threshold()[0] == COLLECT_AFTER
    assert gc.isenabled()
    gc.collect()
    cycle: list[object] = []
    cycle.append(cycle)
    del cycle
    assert gc.collect() >= 1
