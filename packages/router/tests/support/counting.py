"""`serve`, with the garbage collector off and a door to what it would find: `python -m support.counting PORT serve …`.

Whoever connects to PORT makes the process collect, and gets as JSON how many objects of each type were unreachable
though no count of references had freed them: the parts of reference cycles.
"""

import gc
import json
import socket
import sys
import threading
from collections import Counter

from stratmaster_router.cli.main import app


def _collected() -> dict[str, int]:
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    found = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage)
    gc.set_debug(0)
    gc.garbage.clear()
    gc.collect()
    gc.disable()
    return dict(found)


def _answer(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(json.dumps(_collected()).encode())


def main() -> None:
    """Serve, with the door open."""
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    threading.Thread(target=_answer, args=(listener,), daemon=True).start()
    app(sys.argv[2:], prog_name="stratmaster-router")


if __name__ == "__main__":
    main()
