"""`-m contracts.starter SOCKET`: makes the processes of races by forking, a hundred times as fast as a new start.

Each connection to the socket is a process: it sends the arguments of `contender.py` as a line of JSON, gets the
process id as another, then has its standard input and output. Ends with its own standard input.
"""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from typing import NoReturn

from contracts import contender


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
        sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115 - kept to the end
        url, work, number, count = json.loads(sys.stdin.readline())
        print(os.getpid(), flush=True)  # noqa: T201 - as above
        asyncio.run(contender.main(url, work, number, count))
        sys.stdout.flush()
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1])
