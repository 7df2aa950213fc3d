"""Benchmarks: `make bench BENCH=embedded`. How they measure is told in docs/benchmarks.md."""
