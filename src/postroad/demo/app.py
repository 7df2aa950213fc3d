"""The application: what a user of Postroad writes.

Five groups, each with the guarantee that it needs. All but `texts` read the same topic, each at
its own pace. A message may arrive twice (a worker was killed after its handler and before its
answer), and each group is safe against that in its own way:

| group         | delivery         | safe against repeats because                              |
|---------------|------------------|-----------------------------------------------------------|
| board         | at-least-once    | it keeps the newest departure of a route: an upsert       |
| carriers      | effectively-once | its sums commit with the settlement, through `tx`         |
| compensation  | effectively-once | its claims commit with the settlement, through `tx`       |
| notifications | at-least-once    | what it publishes commits with the settlement             |
| texts         | at-least-once    | the phone company knows `idempotency_key`                 |

The road is a URL, which the worker processes are given in POSTROAD_DEMO_URL.
"""

import asyncio
import os
from datetime import timedelta

from postroad import Batch, Delivery, Outgoing, Postroad, Reject, Retry, Transaction
from postroad.demo import books, insurer, rules
from postroad.demo.flights import Departure, airports
from postroad.demo.recorder import Recorder
from postroad.demo.topics import DelayAnnounced, delays_announced, departures_recorded

URL_VARIABLE = "POSTROAD_DEMO_URL"
LEASE = timedelta(seconds=2)
"""A worker that is silent for so long has lost what it holds to the others. Short, for a demo."""

recorder = Recorder()
url = os.environ.get(URL_VARIABLE, "sqlite:///flights.db?durability=normal")
road = Postroad(url, name="flights", hooks=recorder)
board = books.Board.beside(url)
known_airports = airports()


@road.subscribe(
    departures_recorded,
    group="board",
    start="earliest",
    lease=LEASE,
    batch=Batch(size=200, wait=timedelta(milliseconds=100)),
)
def show(departures: list[Departure]) -> None:
    """Put the newest departure of each route on the board. Plain `def`: it runs in a thread."""
    board.show(departures)


@road.subscribe(
    departures_recorded,
    group="carriers",
    start="earliest",
    lease=LEASE,
    delivery="effectively-once",
    concurrency=4,
)
async def count(departure: Departure, tx: Transaction) -> None:
    """Add a departure to its carrier's sums: repeated, it would count twice."""
    await tx.execute(books.ADD_TO_CARRIER, books.carrier_row(departure))


@road.subscribe(
    departures_recorded,
    group="compensation",
    start="earliest",
    lease=LEASE,
    delivery="effectively-once",
    order="key",
    concurrency=16,
    retry=Retry(attempts=4, first=timedelta(milliseconds=100)),
)
async def compensate(departure: Departure, delivery: Delivery, tx: Transaction) -> None:
    """File a claim with the insurer, one at a time for an aircraft, and never two for a flight.

    Four Caribbean destinations are missing from the airports' data: the KeyError is a real one.
    """
    if not rules.entitled(departure):
        return
    if departure.tail_number is None:
        raise Reject("no aircraft was ever assigned, and the insurer insures aircraft")
    if departure.diverted:
        raise Reject("diverted, its delay is unknown: a person has to decide")
    airport = known_airports[departure.destination]
    await insurer.approve(departure, delivery.attempts)
    await tx.execute(books.FILE_CLAIM, books.claim_row(departure, airport.name))


@road.subscribe(
    departures_recorded, group="notifications", start="earliest", lease=LEASE, concurrency=128
)
async def notify(departure: Departure) -> Outgoing | None:
    """Announce what passengers have to know; returned messages are published with the ack."""
    text = rules.announcement(departure)
    if text is None:
        return None
    return delays_announced.message(DelayAnnounced(departure.flight_id, text))


@road.subscribe(delays_announced, group="texts", start="earliest", lease=LEASE, concurrency=128)
async def text(announced: DelayAnnounced, delivery: Delivery) -> None:
    """Send texts through a phone company that takes its time, many at once."""
    await send_text(announced.text, delivery.idempotency_key)


async def send_text(text: str, idempotency_key: str) -> None:
    """The phone company: 20 ms for each text, and a repeated key is not sent again."""
    await asyncio.sleep(0.02)
