"""Floor 3: the one consumer engine. It knows transports only by the protocols of `core`."""
