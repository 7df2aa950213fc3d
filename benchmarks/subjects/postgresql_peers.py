"""Other queues on PostgreSQL, each as its own manual says, all durable, on the same server.

Each publishes in its widest call, then handles everything with a handler that counts, decodes the
same payload to the same type, and is `async def` where the library has that.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Mapping
from itertools import islice
from typing import Any

import msgspec
import psycopg

from benchmarks.subjects import postgresql
from benchmarks.subjects.order import OrderCreated, encoded
from benchmarks.subjects.stopwatch import Stopwatch

_decode = msgspec.json.Decoder(OrderCreated).decode
_BATCH = 1000


def _check(calls: int, count: int) -> None:
    if calls != count:
        raise RuntimeError(f"{calls} calls for {count} messages")


def _batches(items: list[Any]) -> list[list[Any]]:
    """In thousands."""
    going = iter(items)
    batches = []
    while part := list(islice(going, _BATCH)):
        batches.append(part)
    return batches


def procrastinate(
    publish: str, consume: str, server: str, count: int, concurrency: int = 10
) -> Mapping[str, float]:
    """procrastinate: `batch_defer_async`, then a worker until nothing is left."""
    from procrastinate import App, PsycopgConnector

    logging.getLogger("procrastinate").setLevel(logging.ERROR)

    async def run(url: str) -> Mapping[str, float]:
        app = App(connector=PsycopgConnector(conninfo=url))
        calls = 0

        @app.task(name="handler")
        async def handler(payload: str) -> None:
            nonlocal calls
            _decode(payload)
            calls += 1

        jobs = [{"payload": payload.decode()} for payload in encoded(count)]
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            with Stopwatch() as watch:
                for batch in _batches(jobs):
                    await handler.batch_defer_async(*batch)
            publishing = watch.seconds
            await asyncio.to_thread(postgresql.settled, url)
            with Stopwatch() as watch:
                await app.run_worker_async(
                    wait=False, concurrency=concurrency, install_signal_handlers=False
                )
        _check(calls, count)
        return {publish: count / publishing, consume: count / watch.seconds}

    with postgresql.database(server) as url:
        return asyncio.run(run(url))


def pgqueuer(
    publish: str, consume: str, server: str, count: int, batch: int
) -> Mapping[str, float]:
    """pgqueuer on asyncpg, its fastest driver, in its draining mode with batches of `batch`."""
    import asyncpg
    from pgqueuer import QueueManager
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.models import Job
    from pgqueuer.types import QueueExecutionMode

    logging.getLogger("pgqueuer").setLevel(logging.ERROR)

    async def run(url: str) -> Mapping[str, float]:
        connection = await asyncpg.connect(url)
        manager = QueueManager(_queries(connection))
        await manager.queries.install()
        calls = 0

        @manager.entrypoint("handler")
        async def handler(job: Job) -> None:
            nonlocal calls
            _decode(job.payload or b"")
            calls += 1

        with Stopwatch() as watch:
            for part in _batches(encoded(count)):
                await manager.queries.enqueue(["handler"] * len(part), part, [0] * len(part))
        publishing = watch.seconds
        await asyncio.to_thread(postgresql.settled, url)
        with Stopwatch() as watch:
            await manager.run(batch_size=batch, mode=QueueExecutionMode.drain)
        await connection.close()
        _check(calls, count)
        return {publish: count / publishing, consume: count / watch.seconds}

    def _queries(connection: asyncpg.Connection) -> Any:
        from pgqueuer.queries import Queries

        return Queries(AsyncpgDriver(connection))

    with postgresql.database(server) as url:
        return asyncio.run(run(url))


def dramatiq(publish: str, consume: str, server: str, count: int) -> Mapping[str, float]:
    """dramatiq with dramatiq-pg: `send`, one by one as it only can, then a worker's threads."""
    import dramatiq
    from dramatiq_pg import PostgresBroker
    from dramatiq_pg.schema import generate_init_sql

    # Without the exporter of metrics, which only starts under dramatiq's own command line.
    usual = dramatiq.middleware.default_middleware
    middleware = [made() for made in usual if made.__name__ != "Prometheus"]
    logging.getLogger("dramatiq").setLevel(logging.ERROR)
    logging.getLogger("dramatiq_pg").setLevel(logging.ERROR)
    with postgresql.database(server) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(generate_init_sql())
        broker = PostgresBroker(url=url, results=False, middleware=middleware)
        dramatiq.set_broker(broker)
        calls = 0
        lock, reached = threading.Lock(), threading.Event()

        @dramatiq.actor(broker=broker)
        def handler(payload: str) -> None:
            nonlocal calls
            _decode(payload)
            with lock:
                calls += 1
            if calls == count:
                reached.set()

        with Stopwatch() as watch:
            for payload in encoded(count):
                handler.send(payload.decode())
        publishing = watch.seconds
        postgresql.settled(url)
        worker = dramatiq.Worker(broker, worker_threads=8)
        with Stopwatch() as watch:
            worker.start()
            reached.wait(timeout=120)
        worker.stop()
        broker.pool.closeall()
        _check(calls, count)
        return {publish: count / publishing, consume: count / watch.seconds}


def huey(publish: str, consume: str, server: str, count: int) -> Mapping[str, float]:
    """huey's SqlHuey on peewee: enqueue tasks, then take and run them as a worker does."""
    from huey.contrib.sql_huey import SqlHuey
    from peewee import PostgresqlDatabase

    logging.getLogger("huey").setLevel(logging.WARNING)
    with postgresql.database(server) as url:
        database = PostgresqlDatabase(url)
        queue = SqlHuey(database=database, results=False)
        calls = 0

        @queue.task()
        def handler(payload: str) -> None:
            nonlocal calls
            _decode(payload)
            calls += 1

        with Stopwatch() as watch:
            for payload in encoded(count):
                handler(payload.decode())
        publishing = watch.seconds
        postgresql.settled(url)
        with Stopwatch() as watch:
            while (task := queue.dequeue()) is not None:
                queue.execute(task)
        _check(calls, count)
        queue.storage.close()
    return {publish: count / publishing, consume: count / watch.seconds}


def pgmq(publish: str, consume: str, server: str, count: int, batch: int) -> Mapping[str, float]:
    """pgmq by its own client, installed from SQL alone: `send_batch`, then a loop by hand around
    `read_batch` and `delete_batch`. It has no worker: no retries, no concurrency, no shutdown."""
    from pgmq import PGMQueue
    from pgmq.install import get_embedded_install_sql, install_pgmq_sql

    convert = msgspec.convert
    with postgresql.database(server) as url:
        install_pgmq_sql(get_embedded_install_sql(), dsn=url)
        queue = PGMQueue(conn_string=url, init_extension=False)
        queue.create_queue("orders")
        payloads = [json.loads(payload) for payload in encoded(count)]
        with Stopwatch() as watch:
            for part in _batches(payloads):
                queue.send_batch("orders", part)
        publishing = watch.seconds
        postgresql.settled(url)

        async def consuming() -> int:
            calls = 0

            async def handler(order: OrderCreated) -> None:
                nonlocal calls
                calls += 1

            while found := queue.read_batch("orders", vt=30, batch_size=batch):
                for message in found:
                    await handler(convert(message.message, OrderCreated))
                queue.delete_batch("orders", [message.msg_id for message in found])
            return calls

        with Stopwatch() as watch:
            calls = asyncio.run(consuming())
        _check(calls, count)
        queue.close()
    return {publish: count / publishing, consume: count / watch.seconds}
