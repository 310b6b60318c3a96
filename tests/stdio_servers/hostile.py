"""Stdio servers that do what they must not. The first argument says what; standard library only."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


def answer_for_ever() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message and "method" in message:
            result = {"protocolVersion": "2025-11-25", "pid": os.getpid()}
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}) + "\n")
            sys.stdout.flush()


def first_call(reply: Callable[[dict[str, Any]], object]) -> None:
    """Behave until the first `tools/call`."""
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("method") == "tools/call":
            reply(message)
        elif "id" in message:
            result = {"protocolVersion": "2025-11-25", "capabilities": {}}
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}) + "\n")
            sys.stdout.flush()


def write(raw: bytes) -> None:
    sys.stdout.buffer.write(raw)
    sys.stdout.buffer.flush()


def write_for_ever(raw: bytes) -> NoReturn:
    while True:
        write(raw)


def stay(last_words: bytes = b"") -> NoReturn:
    write(last_words)
    while True:
        time.sleep(60)


def fork_stubborn(where: str) -> None:
    """A child, a child in a session of its own, and a daemon whose parent is gone; all ignore SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for kind in ("child", "session", "daemon"):
        if os.fork() == 0:
            if kind != "child":
                os.setsid()
            if kind == "daemon" and os.fork() != 0:
                os._exit(0)
            (Path(where) / f"{kind}-{os.getpid()}").touch()
            stay()
    while len(list(Path(where).iterdir())) < 3:
        time.sleep(0.01)


mode = sys.argv[1]
match mode:
    case "exit":
        sys.exit(3)
    case "mute":
        stay()
    case "deaf":  # shakes hands, then never reads again
        first_call(lambda message: stay())
    case "garbage":
        first_call(lambda message: write(b"Server listening...\n"))
    case "garbage_at_start":
        write(b"Welcome!\n")
        stay()
    case "blank":
        first_call(lambda message: write(b"\n"))
    case "batch":
        first_call(lambda message: write(b"[]\n"))
    case "long_line":
        first_call(lambda message: write(b'{"jsonrpc":"2.0","x":"' + b"x" * 10_000_000 + b'"}\n'))
    case "endless_line":
        first_call(lambda message: write_for_ever(b"x" * 65536))
    case "refuse":
        message = json.loads(sys.stdin.readline())
        error = {"code": -32000, "message": "no"}
        write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode() + b"\n")
        stay()
    case "flood_stderr":
        if os.fork() == 0:
            while True:
                os.write(2, b"all work and no play\n" * 3000)
        answer_for_ever()
    case "flood_stdout":
        note = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}\n'
        if os.fork() == 0:
            while True:
                os.write(1, note * 40)  # under PIPE_BUF, so whole lines
        answer_for_ever()
    case "flood_requests":
        ask = (
            b'{"jsonrpc":"2.0","id":%d,"method":"sampling/createMessage","params":{"x":"xxxxxxxxxxxxxxxxxxxxxxxxx"}}\n'
        )
        if os.fork() == 0:
            n = 0
            while True:
                os.write(1, b"".join(ask % (n + more) for more in range(30)))  # under PIPE_BUF, so whole lines
                n += 30
        answer_for_ever()
    case "ask_and_stop":  # asks once and never reads again
        ask = b'{"jsonrpc":"2.0","id":"q","method":"sampling/createMessage","params":{}}\n'
        first_call(lambda message: stay(ask))
    case "refuse_calls":
        for line in sys.stdin:
            error = {"code": -32601, "message": "no"}
            write(json.dumps({"jsonrpc": "2.0", "id": json.loads(line).get("id"), "error": error}).encode() + b"\n")
    case "stubborn":
        fork_stubborn(sys.argv[2])
        answer_for_ever()
        stay()
    case "leaver":  # ends at once when stdin ends, its children stay
        fork_stubborn(sys.argv[2])
        answer_for_ever()
    case "parricide":  # kills its supervisor
        fork_stubborn(sys.argv[2])
        first_call(lambda message: os.kill(os.getppid(), signal.SIGKILL))
