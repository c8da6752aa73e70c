"""Benchmarks: servers side by side under one load, from `python -m benchmarks`."""
