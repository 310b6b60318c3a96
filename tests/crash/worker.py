"""A stdio MCP server for the crash tests, with the standard library only. The argument is a directory.

It forks a daemon at once, as a careless server does. A tool whose name begins with `hold` is answered once the file
`release` is in the directory; it marks there that it was called.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

WHERE = Path(sys.argv[1])
lock = threading.Lock()


def send(identifier: Any, result: dict[str, Any]) -> None:
    with lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": identifier, "result": result}) + "\n")
        sys.stdout.flush()


def run(identifier: Any, name: str) -> None:
    if name.startswith("hold"):
        (WHERE / f"called-{name}").touch()
        while not (WHERE / "release").exists():
            time.sleep(0.01)
    send(identifier, {"content": [{"type": "text", "text": f"{name} done"}], "isError": False})


if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            time.sleep(60)
    os._exit(0)

for line in sys.stdin:
    message = json.loads(line)
    if message.get("method") == "initialize":
        info = {"name": "worker", "version": "1"}
        version = message["params"]["protocolVersion"]
        send(message["id"], {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info})
    elif message.get("method") == "tools/call":
        threading.Thread(target=run, args=(message["id"], message["params"]["name"]), daemon=True).start()
    elif "id" in message:
        send(message["id"], {})
