"""Postroad: one typed messaging API over many transports."""
