"""CloudEvents 1.0 on the wire: messages to and from bytes and headers. Pure, no I/O.

Rules are from the CloudEvents specification 1.0.2: the core, its JSON event format, and its HTTP
and Kafka protocol bindings (https://github.com/cloudevents/spec).
"""

from postroad.core.wire.binary import AMQP, HTTP, KAFKA, Binding, from_binary, to_binary
from postroad.core.wire.http import from_http, to_http
from postroad.core.wire.kafka import from_kafka, to_kafka
from postroad.core.wire.structured import (
    BATCH_TYPE,
    STRUCTURED_TYPE,
    from_json,
    from_json_batch,
    to_json,
    to_json_batch,
)

__all__ = [
    "AMQP",
    "BATCH_TYPE",
    "HTTP",
    "KAFKA",
    "STRUCTURED_TYPE",
    "Binding",
    "from_binary",
    "from_http",
    "from_json",
    "from_json_batch",
    "from_kafka",
    "to_binary",
    "to_http",
    "to_json",
    "to_json_batch",
    "to_kafka",
]
