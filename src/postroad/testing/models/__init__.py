"""Model transports: roads in memory that behave like the servers of others, for tests. Public.

They keep the engine honest about what no road of this version's own does: positions instead of
acknowledgements, revocations under backpressure, pushes without counts, gaps, zombies, commits
that hold results. The conformance suite passes on each. Instances that share a `Broker` meet on
it, as processes meet on a server; `stall`, `resume` and `kill` are what happens to processes.
"""

from postroad.testing.models.atomic import AtomicModel
from postroad.testing.models.base import Broker
from postroad.testing.models.cumulative import CumulativeModel
from postroad.testing.models.leased import LeasedModel
from postroad.testing.models.lossy import LossyModel
from postroad.testing.models.push import PushModel

__all__ = ["AtomicModel", "Broker", "CumulativeModel", "LeasedModel", "LossyModel", "PushModel"]
