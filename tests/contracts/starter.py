"""`starter.py SOCKET`: makes the processes of races, by forking: it has loaded already what each would load for a second.

Each connection to the socket is a process: it sends `contender.py`'s arguments as a line of JSON, then has its standard
input and output. Ends with its own standard input.
"""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import signal
import socket
import sys
from typing import NoReturn

import contender


def main(path: str) -> None:
    """Serve until standard input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    with socket.socket(socket.AF_UNIX) as listening, selectors.DefaultSelector() as waiting:
        listening.bind(path)
        listening.listen()
        waiting.register(listening, selectors.EVENT_READ)
        waiting.register(0, selectors.EVENT_READ)
        print("ready", flush=True)  # noqa: T201 - read by who started this
        while all(key.fileobj is listening for key, _ in waiting.select()):
            connection, _ = listening.accept()
            with connection:
                if os.fork() == 0:
                    _contend(connection)


def _contend(connection: socket.socket) -> NoReturn:
    code = 1
    try:
        for standard in (0, 1):
            os.dup2(connection.fileno(), standard)
        # Its end is what shows that this process has ended, so no other descriptor of it may stay.
        connection.close()
        sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: PTH123, SIM115 - kept to the end
        url, work, number, count = json.loads(sys.stdin.readline())
        asyncio.run(contender.main(url, work, number, count))
        sys.stdout.flush()
        code = 0
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1])
