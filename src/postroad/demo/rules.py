"""Who is compensated and who is told: pure functions of one departure.

The rules follow Regulation (EC) No 261/2004, articles 5 to 7, as if it applied in New York, and
without its exemption of bad weather: a cancelled flight, or one that arrives three hours late
(Court of Justice, C-402/07), is worth 250, 400 or 600 euros by distance.
"""

from postroad.demo.flights import Departure

MILE = 1.609344
"""Kilometres."""
LATE = 180
"""Minutes of delay at arrival from which passengers are compensated."""
TOLD = 30
"""Minutes of delay at departure from which passengers are told."""


def entitled(departure: Departure) -> bool:
    """Whether passengers can claim: it was cancelled, or three hours late, or never arrived."""
    if departure.cancelled or departure.diverted:
        return True
    return departure.arrival_delay is not None and departure.arrival_delay >= LATE


def amount(departure: Departure) -> int:
    """What a passenger can claim, in euros."""
    kilometres = departure.distance * MILE
    if kilometres <= 1500:
        return 250
    return 400 if kilometres <= 3500 else 600


def announcement(departure: Departure) -> str | None:
    """What passengers are told; None if there is nothing to tell."""
    if departure.cancelled:
        return f"{departure.flight_id} is cancelled"
    if departure.departure_delay is not None and departure.departure_delay >= TOLD:
        return f"{departure.flight_id} leaves {departure.departure_delay} minutes late"
    return None
