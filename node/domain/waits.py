"""How long to wait before something is tried again, and a span of time in words."""

from __future__ import annotations

import random
from datetime import timedelta


def full_jitter(tries: int, base: timedelta, cap: timedelta) -> timedelta:
    """Return a random wait between nothing and base * 2^(tries-1), at most *cap*.

    Many deliveries that failed together, because one peer went away, so come back one by one.
    """
    return min(cap, base * (1 << min(max(tries, 1) - 1, 20))) * random.random()  # noqa: S311  # spreads load, hides nothing


def back_off(tries: int, base: timedelta, cap: timedelta) -> timedelta:
    """Return a random wait between half and all of base * 2^(tries-1), at most *cap*: never nothing.

    For what is tried a counted number of times only.
    """
    ceiling = min(cap, base * (1 << min(tries - 1, 20)))
    return ceiling * random.uniform(0.5, 1.0)  # noqa: S311  # spreads load, hides nothing


def span(time: timedelta) -> str:
    """Return a span of time in one unit."""
    seconds = max(0, round(time.total_seconds()))
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds < 172_800 else f"{seconds // 86_400} days"
