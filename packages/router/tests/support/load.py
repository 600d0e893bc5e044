"""Callers that do not stop while something is changed under them, and what became of each call."""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator

_PAUSE = 0.005  # seconds between a caller's calls: what is measured is not how much a machine can take


class Load:
    """What callers met: `outcomes` counts statuses, and exceptions as they show themselves."""

    def __init__(self) -> None:
        self.outcomes: Counter[int | str] = Counter()
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def run(self, call: Callable[[], int]) -> None:
        """Call until the end; `call` gives a status."""
        while not self._ended.wait(_PAUSE):
            outcome: int | str
            try:
                outcome = call()
            except Exception as error:  # noqa: BLE001  # whatever a caller meets is what is counted
                outcome = repr(error)
            with self._lock:
                self.outcomes[outcome] += 1

    def end(self) -> None:
        """Let every caller come to the end of its call."""
        self._ended.set()


@contextlib.contextmanager
def calling(*calls: Callable[[], int]) -> Iterator[Load]:
    """Each of `calls` again and again, on a thread of its own, until the end of the block."""
    load = Load()
    threads = [threading.Thread(target=load.run, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.end()
        for thread in threads:
            thread.join(30)
