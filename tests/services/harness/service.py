"""What a server must say about itself to be found, started and stopped."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from tests.services.harness.program import Finder

if TYPE_CHECKING:
    from tests.services.harness.instance import Instance


class Service(ABC):
    """A kind of server. An instance of it has its own directory, ports and processes."""

    name: ClassVar[str]
    finders: ClassVar[tuple[Finder, ...]]

    # The first port is the one that `url` speaks of.
    ports: ClassVar[tuple[str, ...]] = ("main",)
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    start_seconds: ClassVar[float] = 30.0
    stop_seconds: ClassVar[float] = 20.0

    @abstractmethod
    def url(self, instance: Instance) -> str:
        """Return the URL at which clients find the instance."""

    @abstractmethod
    def command(self, instance: Instance) -> Sequence[str]:
        """Return the command that runs the server in the foreground.

        It must bind to 127.0.0.1 on `instance.ports` only, and keep its files below
        `instance.directory`.
        """

    @abstractmethod
    def ready(self, instance: Instance) -> bool:
        """Tell whether the server answers requests; called until it does. Must not block long."""

    def prepare(self, instance: Instance) -> None:
        """Make what the first start needs, such as an empty database, with `instance.run`."""
        return

    def environment(self, instance: Instance) -> Mapping[str, str]:
        """Return what the server needs in its environment beside PATH, HOME and TMPDIR."""
        return {}
