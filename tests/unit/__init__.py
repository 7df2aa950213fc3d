"""Tests of one unit each, without I/O; the folders mirror src/postroad."""
