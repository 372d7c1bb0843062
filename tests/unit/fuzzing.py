"""How often the fuzz tests try: a few seconds' worth, always the same; with ``make fuzz`` more, and others each time."""

import os

from hypothesis import HealthCheck, settings

MANY = int(os.environ.get("THREADSURGEON_FUZZ_EXAMPLES", "0"))


def tries(usual):
    """As many examples as usual, or as many as asked for."""
    return settings(
        max_examples=MANY or usual,
        derandomize=not MANY,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
