"""Benchmarks: run on demand, never in CI's way; the last line of each is one JSON object."""
