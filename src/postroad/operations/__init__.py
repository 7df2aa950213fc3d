"""Floor 6: what people who run Postroad need: workers, checks, measurements."""
