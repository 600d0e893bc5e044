"""Writing lines that other processes write between: to a file, a pipe or a device."""

import os
import select
import stat

_PIECE = 1024 * 1024  # bytes a write


def write_lines(file: int, lines: bytearray) -> None:
    """Write `lines` to a descriptor, taking from it what has been written. Blocking.

    Raises OSError; what is left then is to be tried again.
    """
    # What several workers write to one pipe does not mix up to this size (pipe(7)).
    piece = select.PIPE_BUF if stat.S_ISFIFO(os.fstat(file).st_mode) else _PIECE
    while lines:
        end = len(lines)
        if end > piece:
            end = lines.rfind(b"\n", 0, piece) + 1 or end
        del lines[: os.write(file, lines[:end])]
