"""How the property-based tests run: the same examples each time, or many more of them at random.

The ordinary run is deterministic, so that it fails for a change and not by chance. To search for defects,
multiply the number of examples, which are then drawn at random and differ from run to run:

    PLUGSOCKET_EXAMPLES=20 python -m pytest tests/test_fuzz.py tests/test_lifecycle_random.py
"""

import os

import pytest
from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("PLUGSOCKET_EXAMPLES", "1"))

settings.register_profile(
    "plugsocket",
    derandomize=TIMES == 1,
    database=None,  # what is found is worth a test of its own, not a file beside the program
    deadline=None,  # how fast a machine is, is not the subject
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],  # for the same reason
)


def examples(number: int) -> settings:
    """The settings of a test that tries so many examples in an ordinary run."""
    return settings(settings.get_profile("plugsocket"), max_examples=number * TIMES)


time_limit = pytest.mark.timeout(60 * TIMES)
"""A mark for the tests whose duration grows with the number of examples."""
