"""Which worker runs which file of tests.

A guest under tcg fills a processor, a test without a guest mostly waits. So there is one worker more than
processors, and guests are left to as many workers as there are processors; the others run the rest.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    import pytest
    from xdist.remote import Producer
    from xdist.workermanage import WorkerController

GUESTS = "tests/guest/"


class Schedule(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """A file a worker, as `--dist loadfile`; guests at once: at most one a processor."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        guests = [scope for scope in self.workqueue if scope.startswith(GUESTS)]
        others = [scope for scope in self.workqueue if not scope.startswith(GUESTS)]
        takes_guests = self.nodes.index(node) < len(os.sched_getaffinity(0))
        wanted = (guests or others) if takes_guests else others
        if wanted:
            self.workqueue.move_to_end(wanted[0], last=False)
            super()._assign_work_unit(node)
        else:
            node.shutdown()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Schedule:
    return Schedule(config, log)
