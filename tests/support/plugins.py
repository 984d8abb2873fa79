"""A scheduling plugin, as somebody may write one."""

import time


class Prefers:
    """Wants one endpoint for every request, and fails, or takes its time, when it is told to by a header."""

    def __init__(self, endpoint):
        self._endpoint = endpoint

    def score(self, asked, candidates):
        if asked.header("x-fail"):
            raise RuntimeError("as told")
        time.sleep(float(asked.header("x-sleep") or 0))
        return [float(one.name == self._endpoint) for one in candidates]
