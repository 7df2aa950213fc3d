"""Least privilege: the roles of docs/databases.md can do everything, and nothing less can."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from postroad.core.delivery import Failure, Settlement
from postroad.core.flow import Rate
from postroad.core.sequence import Change, LineId
from postroad.core.topic import Retention, Topic
from postroad.core.transport import Kept, Plan
from postroad.delivery.outbox import Outbox, Relay
from postroad.errors import PublishError, StoragePermissionError
from postroad.idempotency import Keys
from postroad.operations.migrating import bring_up_to_date
from postroad.storage.database import Database as Storage
from postroad.storage.opening import place_of
from postroad.transports.sql import SqlTransport
from tests.integration.outbox_world import ORDERS, QUICK, TOPICS, Order, Road, connect
from tests.integration.servers_road import KINDS, ONE, group, message, opened, publish
from tests.services.harness.sql import Database

PAGE = Path(__file__).parents[2] / "docs" / "databases.md"
KEPT: Topic[int] = Topic("servers.kept", int, retention=Retention(age=timedelta(hours=1)))
WHY = Failure(reason="exception", detail="no luck")


def grants(kind: str, role: str) -> list[str]:
    """The statements of the page for one of its roles."""
    name = "PostgreSQL" if kind == "postgresql" else "MySQL and MariaDB"
    section = PAGE.read_text().partition(f"### {name}\n")[2].partition("\n### ")[0]
    for block in re.findall(r"^```sql\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
        if f"for {role}" in block.splitlines()[0]:
            lines = [line for line in block.splitlines() if not line.startswith("--")]
            return [found.strip() for found in "\n".join(lines).split(";") if found.strip()]
    raise AssertionError(f"{PAGE} has no grants for {role}")


class Roles:
    """The two users of the page, in a database of the test's own."""

    def __init__(self, kind: str, database: Database) -> None:
        self.kind = kind
        self.database = database
        options = "?schema=postroad" if kind == "postgresql" else ""
        self.owner = self._add("shop_owner") + options
        self.app = self._add("shop_app") + options

    def _add(self, role: str) -> str:
        names = {"DATABASE shop ": "DATABASE {database} ", "shop.*": "{database}.*"}
        statements = []
        for statement in grants(self.kind, role):
            for name, ours in names.items():
                statement = statement.replace(name, ours)
            statement = re.sub(rf"\b{role}\b", "{role}", statement)
            if role == "shop_app":
                statement = statement.replace("shop_owner", self.name_of(self.owner))
            statements.append(statement)
        return self.database.add_role(*statements)

    @staticmethod
    def name_of(url: str) -> str:
        return url.partition("://")[2].partition(":")[0]

    def revoke(self, right: str, table: str) -> None:
        """Take a right away from the one that runs."""
        place = (
            f"postroad.{table}" if self.kind == "postgresql" else f"{self.database.name}.{table}"
        )
        app = self.name_of(self.app)
        if self.kind == "mariadb":  # a part of what was granted for the whole cannot be taken back
            self.database.query(
                f"REVOKE SELECT, INSERT, UPDATE, DELETE ON {self.database.name}.* FROM {app}"
            )
            rows = self.database.query("SHOW TABLES")
            for (name,) in rows:
                rights = "SELECT, INSERT, UPDATE, DELETE"
                self.database.query(f"GRANT {rights} ON {self.database.name}.{name} TO {app}")
        self.database.query(f"REVOKE {right} ON {place} FROM {app}")


@pytest.fixture(params=KINDS)
def roles(request: pytest.FixtureRequest) -> Roles:
    kind: str = request.param
    return Roles(kind, request.getfixturevalue(f"{kind}_database"))


async def test_the_role_that_runs_can_do_everything(roles: Roles) -> None:
    bring_up_to_date(roles.owner)
    async with opened(roles.app, group()) as transport:
        await transport.open([KEPT], [])
        await _publishes(transport)
        await _handles(transport)
        await _answers(transport)
        await _keeps(transport)
    await _adds_and_relays(roles.app)
    async with Keys(roles.app) as keys:
        async with keys.claim("orders", "1", b"body") as claim:
            await claim.store(b"done")
        await keys.purge()


async def _publishes(transport: SqlTransport) -> None:
    await publish(transport, *[message(n, key=f"k{n % 3}") for n in range(40)])
    await publish(transport, *[message(n) for n in range(3)], topic=KEPT)
    now = message(1)
    later = msgspec.structs.replace(now, deliver_at_us=now.time_us + 3_600_000_000)
    soon = msgspec.structs.replace(message(2), deliver_at_us=now.time_us + 50_000)
    await publish(transport, later, soon)
    assert await transport.cancel(later.id)
    assert await transport.publish_once("token", [(ONE, message(3))])
    await transport.publish_numbered([(ONE, message(4, key="k1"))], "epoch")
    assert (await transport.permits("p", Rate(10), 1))[0] == 1


async def _handles(transport: SqlTransport) -> None:
    plan = Plan(ordered=True, parks=True)
    subscription = group(name="ordered", order="key")
    consumer: Any = await transport.subscribe(subscription, plan)
    seen = 0
    async with asyncio.timeout(30):
        while seen < 43:
            got = await consumer.receive(10, 1 << 30, timedelta(seconds=1))
            got = await consumer.begin(got)
            await consumer.extend(got)
            answers = []
            for one in got:
                seen += 1
                nack = Settlement(one, "nack", delay=timedelta(0), failure=WHY)
                reject = Settlement(one, "reject", failure=WHY)
                first = one.attempts == 0 and one.message.key == "k2"
                answers.append(nack if first else reject if seen > 41 else Settlement(one))
                seen -= first
            await consumer.settle(answers)
    await consumer.close()
    plain: Any = await transport.subscribe(group(), Plan())
    (one, *_) = await plain.receive(1, 1 << 30, timedelta(seconds=5))
    async with plain.transaction(one, "/tests") as tx:
        await tx.execute("SELECT 1")
    await plain.close()


async def _answers(transport: SqlTransport) -> None:
    assert await transport.topics("#")
    assert await transport.browse(ONE.name, "earliest", 10)
    assert (await transport.lag(ONE.name, "g")).messages
    assert (await transport.account(ONE.name, "ordered")).accepted
    assert ("servers.one", "g") in await transport.groups("#")
    letters = await transport.dead_letters(ONE.name, "ordered", 10)
    assert letters
    assert await transport.redrive([letters[0].id])
    await transport.discard([letter.id for letter in letters[1:]])
    await transport.seek(ONE.name, "g", "earliest")
    await transport.trim()


async def _keeps(transport: SqlTransport) -> None:
    kept = Kept(message=message(1, key="k"), attempts=1, failures=(WHY,))
    await transport.keep(KEPT, "ordered", [kept], ordered=True, parks=True)
    assert await transport.unsettled_keys(KEPT.name, "ordered", None)
    line = LineId(ONE.name, "k1", "epoch")
    await transport.advance_sequences("g", [Change(line, 1, 2)])
    assert await transport.sequences("g", [line])
    await transport.forget_sequences("g", ONE.name)


async def _adds_and_relays(url: str) -> None:
    """The outbox, in the app's own transaction and through a relay."""
    connection = connect(url.partition("?")[0])
    if "schema" in url:
        connection.cursor().execute("SET search_path = postroad")
    outbox = Outbox()
    for number in range(5):
        outbox.add(connection, ORDERS, Order(number, "ada"))
    connection.commit()
    connection.close()
    database, road = await Storage.open(place_of(url)), Road()
    relay = Relay(database, road.publish, TOPICS, settings=QUICK)
    await asyncio.wait_for(relay.drain(), 20)
    assert len(road.ids) == 5
    await relay.close()
    await database.close()


@pytest.mark.parametrize(
    ("right", "table", "fails"),
    [
        ("INSERT", "postroad_messages", "publish"),
        ("UPDATE", "postroad_streams", "publish"),
        ("SELECT", "postroad_topics", "open"),
        ("INSERT", "postroad_claims", "receive"),
        ("DELETE", "postroad_claims", "settle"),
    ],
)
async def test_a_right_that_is_missing_is_named(
    roles: Roles, right: str, table: str, fails: str
) -> None:
    bring_up_to_date(roles.owner)
    roles.revoke(right, table)

    async def everything(said: Callable[[str], None]) -> None:
        said("open")
        async with opened(roles.app, group()) as transport:
            said("publish")
            await publish(transport, message(1))
            consumer = await transport.subscribe(group(), Plan())
            said("receive")
            (one,) = await consumer.receive(1, 1 << 30, timedelta(seconds=5))
            said("settle")
            await consumer.settle([Settlement(one)])

    steps: list[str] = []
    with pytest.raises((StoragePermissionError, PublishError)) as caught:
        await everything(steps.append)
    error: BaseException = caught.value
    if isinstance(error, PublishError):
        error = error.failed[0]
    assert isinstance(error, StoragePermissionError)
    assert steps[-1] == fails
    assert table in str(error)
    assert "docs/databases.md" in str(error)


async def test_the_role_that_runs_may_not_migrate(roles: Roles) -> None:
    """It is told who may, and how; and the tables of the present version are all that it needs."""
    transport = SqlTransport(roles.app)
    with pytest.raises(StoragePermissionError, match="run `postroad migrate`"):
        await transport.open([], [])
    bring_up_to_date(roles.owner)
    await transport.open([ONE], [])
    await transport.close()


async def test_a_login_that_is_refused(roles: Roles) -> None:
    """As a missing right; and no error repeats the password."""
    nobody = roles.database.url.partition("://")[0] + "://nobody:hunter2@"
    url = nobody + roles.database.url.rpartition("@")[2]
    with pytest.raises(StoragePermissionError) as caught:
        await SqlTransport(url).open([], [])
    assert "hunter2" not in str(caught.value)
