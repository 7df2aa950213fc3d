"""The public testing kit: the conformance suite for transports, and what tests of users need."""
