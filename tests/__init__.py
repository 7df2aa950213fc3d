"""Tests of Postroad."""
