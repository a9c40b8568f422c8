"""A platform for tests that need running services, and not their start."""

from collections.abc import Mapping, Sequence
from typing import Any

from choreo.local import Platform
from tests.nursery import Keeper, start_worker


class ForkedPlatform(Platform):
    """A platform whose workers are forked from the nursery: each takes a tenth of the processor time to start."""

    def _run_worker(self, service: Any, options: Sequence[str], environment: Mapping[str, str]) -> Any:
        surroundings = self._environment_with(environment)
        worker = start_worker(
            service.target, *options, log=self.log(service.name), environment=surroundings, quiet=True
        )
        return Keeper(worker, self._grace)
