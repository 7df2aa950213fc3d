"""The pytest plugin that gives tests their servers.

- `<name>_server`: the server that the whole run shares, such as `redis_server.url`.
- `<name>_database`: on the shared server of an SQL kind, an empty database of the test's own.
- `start_server`: starts a server of the test's own, which it may stop, kill and restart;
  such a test is marked `needs_server("redis")`.

A server that cannot be had skips the test and prints the reason; where
POSTROAD_TEST_REQUIRE names it, the test fails. Servers are looked for, and downloaded,
after collection: not at the cost of a test's own time limit. When a test fails, the last
log lines join its report, and the logs are kept in build/service-logs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.services.harness.external import External, url_variable
from tests.services.harness.instance import Instance
from tests.services.harness.program import Unavailable
from tests.services.harness.registry import Servers, is_required, known_services
from tests.services.harness.sql import Database, SqlService

Server = Instance | External
StartServer = Callable[[str], Instance]

_SERVERS = pytest.StashKey[Servers]()
_HAS_FAILED = pytest.StashKey[bool]()
_LOGS = Path("build/service-logs")


def unavailable(name: str, reason: object) -> NoReturn:
    """End a test: skipped, or failed where POSTROAD_TEST_REQUIRE demands what cannot be had."""
    message = f"{name} cannot be had: {reason}"
    if is_required(name):
        pytest.fail(f"{message} (demanded by POSTROAD_TEST_REQUIRE)", pytrace=False)
    pytest.skip(message)


# ------------------------------------------------------------ fixtures


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Servers:
    """The servers of this run."""
    return pytestconfig.stash[_SERVERS]


@pytest.fixture
def start_server(
    servers: Servers, request: pytest.FixtureRequest
) -> Generator[StartServer, None, None]:
    """Start servers of the test's own; they are removed after it."""
    started: list[Instance] = []

    def start(name: str) -> Instance:
        started.append(servers.start(name))
        return started[-1]

    yield start
    for instance in started:
        servers.discard(instance, keep_log_in=_logs_folder(request.node))


def _shared_server(name: str) -> Callable[..., Server]:
    @pytest.fixture(scope="session", name=f"{name}_server")
    def shared_server(servers: Servers) -> Server:
        return servers.shared(name)

    return shared_server


def _database(service: SqlService) -> Callable[..., Generator[Database, None, None]]:
    @pytest.fixture(name=f"{service.name}_database")
    def database(request: pytest.FixtureRequest) -> Generator[Database, None, None]:
        server: Server = request.getfixturevalue(f"{service.name}_server")
        database = Database.make(service, server.url)
        yield database
        database.drop()

    return database


for _name, _service in known_services().items():
    globals()[f"{_name}_server"] = _shared_server(_name)
    if isinstance(_service, SqlService):
        globals()[f"{_name}_database"] = _database(_service)


# ------------------------------------------------------------ hooks


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SERVERS] = Servers(known_services())
    config.addinivalue_line(
        "markers", "needs_server(*names): the test starts servers of its own, of these kinds"
    )


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Look for every server that the collected tests need, and say where each was found."""
    if config.option.collectonly:
        return []
    servers = config.stash[_SERVERS]
    shared = {name for item in items for name in _shared_names(item, servers)}
    started = {name for item in items for name in _started_names(item)}
    return [_whereabouts(name, servers, name in started) for name in sorted(shared | started)]


def _whereabouts(name: str, servers: Servers, must_be_startable: bool) -> str:
    if _is_external(name) and not must_be_startable:
        return f"{name}: the one of {url_variable(name)}"
    try:
        return f"{name}: {servers.program(name).origin}"
    except Unavailable as reason:
        return f"{name}: cannot be had: {reason}"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    servers = item.config.stash[_SERVERS]
    shared = {name for name in _shared_names(item, servers) if not _is_external(name)}
    for name in sorted(shared | _started_names(item)):
        try:
            servers.program(name)
        except Unavailable as reason:
            unavailable(name, reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    servers = item.config.stash[_SERVERS]
    if report.failed:
        item.stash[_HAS_FAILED] = True
        if _shared_names(item, servers) or _started_names(item):
            report.sections += [(f"log of {name}", text) for name, text in servers.logs().items()]
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    failed = bool(session.testsfailed)
    folder = session.config.rootpath / _LOGS if failed else None
    session.config.stash[_SERVERS].close(keep_logs_in=folder)


def _logs_folder(item: pytest.Item) -> Path | None:
    return item.config.rootpath / _LOGS if item.stash.get(_HAS_FAILED, False) else None


def _is_external(name: str) -> bool:
    return bool(os.environ.get(url_variable(name)))


def _shared_names(item: pytest.Item, servers: Servers) -> set[str]:
    fixtures = getattr(item, "fixturenames", ())
    return {
        name
        for name in servers.services
        if f"{name}_server" in fixtures or f"{name}_database" in fixtures
    }


def _started_names(item: pytest.Item) -> set[str]:
    return {name for mark in item.iter_markers("needs_server") for name in mark.args}
