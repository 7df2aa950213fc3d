"""The harness that finds, starts and stops real servers."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.services.harness.accounts import server_account
from tests.services.harness.cache import cached
from tests.services.harness.debian import Debian
from tests.services.harness.external import External
from tests.services.harness.instance import Instance, ServiceFailed
from tests.services.harness.local import Local
from tests.services.harness.maven import Maven
from tests.services.harness.ports import accepts_connections, free_port
from tests.services.harness.program import Finder, Program, Unavailable, first_found
from tests.services.harness.registry import Servers
from tests.services.harness.service import Service
from tests.services.harness.sql import Database, SqlService, StatementFailed
from tests.services.harness.waiting import wait_until
from tests.services.harness.wheels import Wheel
from tests.services.plugin import StartServer, unavailable
from tests.services.redis import Redis

_REPOSITORY = Path(__file__).parents[2]


def ask_redis(port: int, command: str) -> str:
    """Send one inline command and return the first line of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"{command}\r\n".encode())
        return connection.makefile("r").readline().strip()


def ask_redis_value(port: int, key: str) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"GET {key}\r\n".encode())
        answer = connection.makefile("r")
        answer.readline()
        return answer.readline().strip()


@pytest.fixture
def open_folder() -> Generator[Path, None, None]:
    """A folder that every account can enter; pytest's are closed."""
    with tempfile.TemporaryDirectory(prefix="postroad-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def found_or_unavailable(name: str, finder: Finder) -> Program:
    try:
        return finder.find()
    except Unavailable as reason:
        unavailable(name, reason)


# ------------------------------------------------------------ finding


class TestFinders:
    def test_debian_packages_are_unpacked_with_the_libraries_they_lack(self) -> None:
        finder = Debian(("redis-server",), ("usr/bin/redis-server",))
        program = found_or_unavailable("debian", finder)
        report = subprocess.run(
            [program["redis-server"], "--version"],
            env={"LD_LIBRARY_PATH": program.environment["LD_LIBRARY_PATH"]},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "Redis server v=" in report.stdout

    def test_unpacked_debian_packages_are_reused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        finder = Debian(("redis-server",), ("usr/bin/redis-server",))
        first = found_or_unavailable("debian", finder)
        monkeypatch.setattr(Debian, "_fill", _must_not_be_called)
        assert finder.find() == first

    def test_a_wheel_ships_a_program(self) -> None:
        program = found_or_unavailable("wheels", Wheel("ninja==1.11.1.4", ("**/bin/ninja",)))
        report = subprocess.run(
            [program["ninja"], "--version"], capture_output=True, text=True, check=True
        )
        assert report.stdout.startswith("1.11.1")

    def test_maven_artifacts_run_with_what_they_depend_on(self) -> None:
        program = found_or_unavailable("maven", Maven("junit", ("junit:junit:4.13.2",)))
        assert program.classpath is not None
        report = subprocess.run(
            [program["java"], "-cp", program.classpath, "org.junit.runner.JUnitCore"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "JUnit version 4.13.2" in report.stdout

    def test_no_java_is_a_reason(self) -> None:
        with pytest.raises(Unavailable, match="Java 999 or newer is not installed"):
            Maven("junit", ("junit:junit:4.13.2",), java=999).find()

    def test_local_programs_are_taken_from_the_newest_matching_folder(
        self, open_folder: Path
    ) -> None:
        for version in ("9", "10"):
            _make_program(open_folder / version / "bin" / "some-server")
        program = Local(("some-server",), (f"{open_folder}/*/bin",)).find()
        assert program["some-server"] == str(open_folder / "10/bin/some-server")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another account")
    def test_a_program_that_is_closed_to_the_servers_account_is_no_use(
        self, open_folder: Path
    ) -> None:
        _make_program(open_folder / "bin" / "some-server")
        open_folder.chmod(0o700)
        with pytest.raises(Unavailable, match="closed to the account that servers run as"):
            Local(("some-server",), (f"{open_folder}/bin",)).find()

    def test_all_reasons_are_told(self) -> None:
        finders = (Local(("no-such-server",)), Wheel("no-such-wheel/1", ("x",)))
        with pytest.raises(Unavailable) as caught:
            first_found(finders)
        assert "no no-such-server on PATH; " in str(caught.value)
        assert "pip" in str(caught.value)


def _must_not_be_called(*_: object) -> None:
    pytest.fail("the packages were unpacked a second time")


def _make_program(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n", encoding="utf-8")
    path.chmod(0o755)


class TestCache:
    @pytest.fixture(autouse=True)
    def _own_cache(self, open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("POSTROAD_TEST_CACHE", str(open_folder / "cache"))

    def test_a_folder_is_filled_once(self) -> None:
        fills: list[Path] = []
        assert cached("a/b", fills.append) == cached("a/b", fills.append)
        assert len(fills) == 1

    def test_a_failed_fill_leaves_nothing(self) -> None:
        def fail(folder: Path) -> None:
            (folder / "half").touch()
            raise Unavailable("the line broke")

        with pytest.raises(Unavailable, match="the line broke"):
            cached("a", fail)
        place = cached("a", lambda folder: (folder / "whole").touch())
        assert [path.name for path in place.iterdir()] == ["whole"]
        assert [path.name for path in place.parent.iterdir() if path.is_dir()] == ["a"]

    def test_every_account_can_read_it(self) -> None:
        def fill(folder: Path) -> None:
            (folder / "closed").mkdir(mode=0o700)
            (folder / "closed/file").touch(mode=0o600)

        file = cached("a", fill) / "closed/file"
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o755


# ------------------------------------------------------------ running


@pytest.mark.needs_server("redis")
class TestRedis:
    def test_it_runs_from_unpacked_packages(self) -> None:
        finder = Debian(("redis-server",), ("usr/bin/redis-server",))
        instance = Instance(Redis(), found_or_unavailable("debian", finder))
        try:
            instance.launch()
            assert ask_redis(instance.port, "PING") == "+PONG"
        finally:
            instance.remove()
        assert not instance.directory.exists()

    def test_stop_really_stops(self, start_server: StartServer) -> None:
        redis = start_server("redis")
        pid = redis.pid
        assert pid is not None
        redis.stop()
        redis.stop()
        assert not accepts_connections(redis.port)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    def test_two_at_once_do_not_meet(self, start_server: StartServer) -> None:
        first, second = start_server("redis"), start_server("redis")
        assert first.port != second.port
        ask_redis(first.port, "SET name first")
        assert ask_redis(second.port, "EXISTS name") == ":0"

    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_files_and_url_outlive_a_restart(self, start_server: StartServer, end: str) -> None:
        redis = start_server("redis")
        url = redis.url
        assert ask_redis(redis.port, "SET name ada") == "+OK"
        getattr(redis, end)()
        redis.start()
        assert redis.url == url
        assert ask_redis_value(redis.port, "name") == "ada"

    def test_a_paused_server_answers_again_when_resumed(self, start_server: StartServer) -> None:
        redis = start_server("redis")
        redis.pause()
        assert not Redis().ready(redis)
        redis.resume()
        assert ask_redis(redis.port, "PING") == "+PONG"

    def test_a_paused_server_can_be_stopped(self, start_server: StartServer) -> None:
        redis = start_server("redis")
        redis.pause()
        redis.stop()
        assert not accepts_connections(redis.port)

    def test_it_does_not_run_as_root(self, start_server: StartServer) -> None:
        redis = start_server("redis")
        assert _uid_of(redis.pid) == server_account().uid
        assert redis.directory.stat().st_uid == server_account().uid
        assert server_account().uid != 0

    def test_a_port_taken_meanwhile_is_given_up(
        self, servers: Servers, start_server: StartServer
    ) -> None:
        holder = start_server("redis")
        late = Instance(servers.services["redis"], servers.program("redis"))
        late.ports = dict(holder.ports)
        try:
            late.launch()
            assert late.port != holder.port
            assert ask_redis(late.port, "PING") == "+PONG"
        finally:
            late.remove()

    def test_a_server_dies_with_the_tests(self, servers: Servers) -> None:
        """A run that is killed leaves no server behind."""
        servers.program("redis")
        script = textwrap.dedent("""
            import os, signal
            from tests.services.harness.registry import Servers, known_services
            redis = Servers(known_services()).start("redis")
            print(redis.port, redis.directory, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """)
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=_REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        port, directory = done.stdout.split()
        assert wait_until(lambda: not accepts_connections(int(port)), seconds=10)
        shutil.rmtree(directory)

    def test_the_shared_server_answers(self, redis_server: Instance | External) -> None:
        assert redis_server.url.startswith("redis://")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.needs_server(kind))
        for kind in ("mariadb", "postgresql")
    ],
)
class TestOwnSqlServers:
    def test_it_runs_unprivileged_and_answers_again_after_a_restart(
        self, kind: str, start_server: StartServer
    ) -> None:
        server = start_server(kind)
        assert _uid_of(server.pid) == server_account().uid != 0
        server.restart()
        assert server.service.ready(server)

    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_what_was_committed_outlives_its_end(
        self, kind: str, end: str, start_server: StartServer
    ) -> None:
        server = start_server(kind)
        database = new_database(server)
        url = database.url
        database.query("CREATE TABLE orders (id bigint PRIMARY KEY)")
        database.query("INSERT INTO orders VALUES (7)")
        getattr(server, end)()
        server.start()
        assert database.url == url
        assert database.query("SELECT id FROM orders") == [("7",)]

    def test_it_is_as_durable_as_in_production(self, kind: str, start_server: StartServer) -> None:
        database = new_database(start_server(kind))
        settings = {
            "mariadb": "SELECT @@innodb_flush_log_at_trx_commit, @@innodb_doublewrite",
            "postgresql": "SELECT setting FROM pg_settings WHERE name IN "
            "('fsync', 'full_page_writes', 'synchronous_commit') AND setting <> 'on'",
        }
        durable = {"mariadb": [("1", "1")], "postgresql": []}
        assert database.query(settings[kind]) == durable[kind]


@pytest.fixture(params=["mariadb", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    """A database of the test's own on the shared server of each kind."""
    made: Database = request.getfixturevalue(f"{request.param}_database")
    return made


class TestDatabases:
    def test_it_is_empty_and_the_tests_own(self, database: Database) -> None:
        other = Database.make(database.service, database.server_url)
        try:
            other.query("CREATE TABLE orders (id bigint PRIMARY KEY)")
            database.query("CREATE TABLE orders (id bigint PRIMARY KEY)")
            other.query("INSERT INTO orders VALUES (1)")
            assert database.query("SELECT id FROM orders") == []
        finally:
            other.drop()

    def test_rows_come_as_text(self, database: Database) -> None:
        database.query("CREATE TABLE rows_of_text (n bigint, t text)")
        database.query(f"INSERT INTO rows_of_text VALUES (1, NULL), (2, '{'é' * 20_000}')")
        rows = database.query("SELECT n, t FROM rows_of_text ORDER BY n")
        assert rows == [("1", None), ("2", "é" * 20_000)]

    def test_a_refused_statement_tells_its_code(self, database: Database) -> None:
        with pytest.raises(StatementFailed) as caught:
            database.query("SELECT id FROM no_such_table")
        assert caught.value.code == {"mariadb": "1146", "postgresql": "42P01"}[_kind(database)]

    def test_a_role_may_do_what_it_was_granted_and_no_more(self, database: Database) -> None:
        database.query("CREATE TABLE orders (id bigint PRIMARY KEY)")
        url = database.add_role("GRANT SELECT ON orders TO {role}")
        assert database.service.query(url, "SELECT id FROM orders") == []
        for statement in ("INSERT INTO orders VALUES (1)", "CREATE TABLE more (id bigint)"):
            with pytest.raises(StatementFailed) as caught:
                database.service.query(url, statement)
            assert caught.value.code == {"mariadb": "1142", "postgresql": "42501"}[_kind(database)]

    def test_a_role_cannot_enter_other_databases(self, database: Database) -> None:
        url = database.add_role()
        other = Database.make(database.service, database.server_url)
        try:
            with pytest.raises(StatementFailed) as caught:
                database.service.query(url.replace(database.name, other.name), "SELECT 1")
            assert caught.value.code == {"mariadb": "1044", "postgresql": "42501"}[_kind(database)]
        finally:
            other.drop()

    def test_drop_leaves_nothing(self, database: Database) -> None:
        made = Database.make(database.service, database.server_url)
        made.query("CREATE TABLE orders (id bigint PRIMARY KEY)")
        role = made.add_role("GRANT SELECT ON orders TO {role}")
        made.drop()
        made.drop()
        for url in (made.url, role):
            with pytest.raises(StatementFailed):
                made.service.query(url, "SELECT 1")


def new_database(server: Instance) -> Database:
    assert isinstance(server.service, SqlService)
    return Database.make(server.service, server.url)


def _kind(database: Database) -> str:
    return database.service.name


def _uid_of(pid: int | None) -> int:
    assert pid is not None
    return Path(f"/proc/{pid}").stat().st_uid


class TestBrokenServers:
    def test_one_that_exits_is_reported_with_its_last_words(self) -> None:
        _assert_fails_with("exit 3", match="no more disk")

    def test_one_that_never_answers_is_ended(self) -> None:
        _assert_fails_with("sleep 60", match="did not answer within")


def _assert_fails_with(then: str, *, match: str) -> None:
    class Broken(Service):
        name = "broken"
        finders = ()
        start_seconds = 0.5

        def url(self, instance: Instance) -> str:
            return "broken://"

        def command(self, instance: Instance) -> list[str]:
            return ["/bin/sh", "-c", f"echo no more disk; {then}"]

        def ready(self, instance: Instance) -> bool:
            return False

    instance = Instance(Broken(), Program({}, origin="this test"))
    try:
        with pytest.raises(ServiceFailed, match=match):
            instance.launch()
        assert instance.pid is None
    finally:
        instance.remove()


# ------------------------------------------------------------ skipping and demanding

_AN_ABSENT_SERVER = """
    from tests.services.harness import registry
    from tests.services.harness.local import Local
    from tests.services.redis import Redis

    class Absent(Redis):
        name = "absent"
        finders = (Local(("no-such-server",)),)

    registry.known_services = lambda: {"absent": Absent()}
    pytest_plugins = ["tests.services.plugin"]
"""

_A_TEST_OF_IT = """
    import pytest

    @pytest.mark.needs_server("absent")
    def test_it(start_server):
        start_server("absent")
"""


@pytest.mark.parametrize(
    ("demanded", "outcome"),
    [("", "1 skipped"), ("redis", "1 skipped"), ("all", "1 error"), ("redis,absent", "1 error")],
)
def test_a_server_that_cannot_be_had(demanded: str, outcome: str, tmp_path: Path) -> None:
    for name, text in [("conftest", _AN_ABSENT_SERVER), ("test_absent", _A_TEST_OF_IT)]:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": str(_REPOSITORY),
        "POSTROAD_TEST_REQUIRE": demanded,
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", f"--rootdir={tmp_path}"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert outcome in done.stdout.splitlines()[-1]
    assert "absent cannot be had: no no-such-server on PATH" in done.stdout


def test_ports_differ_between_calls() -> None:
    ports = {free_port() for _ in range(50)}
    assert len(ports) == 50
