"""Benchmark of the router and its rivals, side by side on one machine: `python -m bench`."""
