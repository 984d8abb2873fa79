"""How many examples a property test tries."""

import os


def examples(count):
    """``count``; where `PENSTOCK_EXAMPLES_PERCENT` says less (`make test`: CI tries all of them in a step of its own), that share."""
    return max(10, count * int(os.environ.get("PENSTOCK_EXAMPLES_PERCENT", "100")) // 100)
