"""The servers of one test run: which there are, where they were found, which run."""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
from pathlib import Path

import tests.services
from tests.services.harness.external import External, external_server
from tests.services.harness.instance import Instance
from tests.services.harness.program import Program, Unavailable, first_found
from tests.services.harness.service import Service


def known_services() -> dict[str, Service]:
    """Return every server that has a module in tests/services, by name."""
    services = {}
    for module_info in pkgutil.iter_modules(tests.services.__path__):
        module = importlib.import_module(f"tests.services.{module_info.name}")
        service = getattr(module, "SERVICE", None)
        if isinstance(service, Service):
            services[service.name] = service
    return services


def is_required(name: str) -> bool:
    """Tell whether POSTROAD_TEST_REQUIRE (`all`, or names with commas) demands a server."""
    required = os.environ.get("POSTROAD_TEST_REQUIRE", "")
    names = {word.strip() for word in required.split(",")}
    return "all" in names or name in names


class Servers:
    """Finds each service once, shares one server of it, and starts more on demand."""

    def __init__(self, services: dict[str, Service]) -> None:
        self.services = services
        self._found: dict[str, Program | Unavailable] = {}
        self._shared: dict[str, Instance | External] = {}
        self._instances: list[Instance] = []

    def program(self, name: str) -> Program:
        """Return a service's program; Unavailable with the reason. Searches, downloads, once."""
        if name not in self._found:
            self._found[name] = self._search(name)
        found = self._found[name]
        if isinstance(found, Unavailable):
            raise found
        return found

    def _search(self, name: str) -> Program | Unavailable:
        try:
            return first_found(self.services[name].finders)
        except Unavailable as reason:
            return reason

    def shared(self, name: str) -> Instance | External:
        """Return the server that all tests of this run share; start it on first use.

        Leave it running and as you found it, and use names of your own on it.
        """
        if name not in self._shared:
            self._shared[name] = external_server(name) or self.start(name)
        return self._shared[name]

    def start(self, name: str) -> Instance:
        """Start a server of the caller's own, which it may stop, kill and restart."""
        instance = Instance(self.services[name], self.program(name))
        self._instances.append(instance)
        instance.launch()
        return instance

    def logs(self) -> dict[str, str]:
        """Return the last log lines of every server of ours, by name and port."""
        return {f"{i.service.name}, port {i.port}": i.log_tail() for i in self._instances}

    def discard(self, instance: Instance, *, keep_log_in: Path | None) -> None:
        """Stop a server of ours and delete its files, but copy its log where it is to be kept."""
        if instance in self._instances:
            self._instances.remove(instance)
        if keep_log_in is not None and instance.log.exists():
            keep_log_in.mkdir(parents=True, exist_ok=True)
            name = f"{instance.service.name}-{instance.port}.log"
            shutil.copyfile(instance.log, keep_log_in / name)
        instance.remove()

    def close(self, *, keep_logs_in: Path | None) -> None:
        """Discard every server that is left. Idempotent."""
        for instance in list(self._instances):
            self.discard(instance, keep_log_in=keep_logs_in)
        self._shared.clear()
