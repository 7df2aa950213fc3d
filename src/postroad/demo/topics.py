"""The events of the demo."""

import msgspec

from postroad import Topic
from postroad.demo.flights import Departure


class DelayAnnounced(msgspec.Struct, frozen=True):
    """Passengers of a flight have to be told something."""

    flight_id: str
    text: str


def aircraft(departure: Departure) -> str:
    """The ordering scope: an aircraft flies one leg after the other."""
    return departure.tail_number or departure.flight_id


departures_recorded = Topic("departures.recorded", Departure, key=aircraft)
"""What became of a scheduled departure. Its CloudEvents `time` is the scheduled time."""

delays_announced = Topic("delays.announced", DelayAnnounced)
"""Published by the group `notifications`, one for each departure that is late or cancelled."""

GROUPS = ("board", "carriers", "compensation", "notifications", "texts")
"""Every group of the demo, in the order in which they are shown."""
