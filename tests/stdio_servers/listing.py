"""A stdio server that lists the tools of a JSON file, read anew each time, and answers a call with its name."""

import json
import sys
from pathlib import Path

for line in sys.stdin:
    message = json.loads(line)
    match message.get("method"):
        case "initialize":
            version = message["params"]["protocolVersion"]
            result = {
                "protocolVersion": version,
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "listing", "version": "1"},
            }
        case "tools/list":
            result = {"tools": json.loads(Path(sys.argv[1]).read_text())}
        case "tools/call":
            result = {"content": [{"type": "text", "text": message["params"]["name"]}]}
        case _:
            result = {}
    if "id" in message:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}) + "\n")
        sys.stdout.flush()
