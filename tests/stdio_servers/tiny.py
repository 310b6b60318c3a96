"""A small, honest stdio server for the tests, with the standard library only. `tools/call` runs what `name` says."""

import json
import os
import sys
from pathlib import Path
from typing import Any

held: list[tuple[Any, Any, Any]] = []
asking: dict[Any, Any] = {}
listening: list[Any] = []
armed: list[dict[str, Any]] = []
filed: dict[Any, str] = {}
seen: list[dict[str, Any]] = []


def send(**message: Any) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def progress(token: Any, value: int) -> None:
    send(method="notifications/progress", params={"progressToken": token, "progress": value})


def descriptors() -> dict[str, str]:
    links = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links[entry.name] = entry.readlink().as_posix()
        except OSError:
            continue  # the one that lists the directory
    return {number: link for number, link in links.items() if not link.startswith(f"/proc/{os.getpid()}/")}


def call(  # noqa: C901, PLR0912, PLR0915 - one flat list of tricks
    identifier: Any, name: str, arguments: dict[str, Any], meta: dict[str, Any]
) -> None:
    result: dict[str, Any]
    token = meta.get("progressToken")
    match name:
        case "pid":
            result = {"pid": os.getpid(), "parent": os.getppid(), "cwd": str(Path.cwd())}
        case "echo":
            result = {"echo": arguments, "meta": meta, "id": identifier}
        case "environment":
            result = dict(os.environ)
        case "descriptors":
            result = descriptors()
        case "seen":
            result = {"seen": list(seen)}
        case "read":
            result = {"text": Path(arguments["path"]).read_text()}
        case "hold":  # answered by "release", latest first
            held.append((identifier, arguments, token))
            if token is not None:
                progress(token, 1)
            return
        case "release":
            for other, its_arguments, its_token in reversed(held):
                if its_token is not None:
                    progress(its_token, 2)
                send(id=other, result={"held": its_arguments})
            result = {"released": len(held)}
            held.clear()
        case "stray":  # what belongs to nobody
            progress(999_999, 1)
            progress(identifier, 1)
            progress(True, 1)
            send(method="notifications/message", params={"level": "info", "data": "x"})
            send(id=999_999, result={})
            send(id=str(identifier), result={"wrong": True})
            send(id=None, error={"code": -32700, "message": "?"})
            result = {"id": identifier}
        case "ask":  # requests of the server's
            send(id="a", method="ping")
            send(id="b", method="sampling/createMessage", params={"messages": [], "maxTokens": 1})
            result = {}
        case "emit":  # whatever the test wants
            for message in arguments["messages"]:
                send(**message)
            if arguments.get("hold"):
                held.append((identifier, arguments, token))
                return
            result = {}
        case "consult":  # answered with what the client answers
            asking[arguments["id"]] = identifier
            send(id=arguments["id"], method=arguments["method"], params=arguments.get("params", {}))
            return
        case "arm":  # a question for the next change of roots, when no call is open; its answer goes to a file
            armed.append(arguments)
            filed[arguments["id"]] = arguments["file"]
            result = {}
        case "publish":
            for subscription in listening:
                told = {"uri": "a:b", "_meta": {"io.modelcontextprotocol/subscriptionId": subscription}}
                send(method="notifications/resources/updated", params=told)
            result = {"subscriptions": len(listening)}
        case "unpublish":
            for subscription in listening:
                if arguments.get("cancel"):
                    send(method="notifications/cancelled", params={"requestId": subscription})
                else:
                    send(id=subscription, result={"_meta": {"io.modelcontextprotocol/subscriptionId": subscription}})
            listening.clear()
            result = {}
        case "flood_progress":
            for value in range(arguments["count"]):
                progress(token, value)
            result = {"done": True}
        case "say":
            sys.stderr.write(arguments["text"])
            sys.stderr.flush()
            result = {}
        case "close_stdout":
            sys.stdout.flush()
            os.close(1)
            return
        case "die":
            os._exit(3)
        case "error":
            send(id=identifier, error={"code": -32602, "message": "no", "data": {"x": 1}})
            return
        case _:
            result = {}
    send(id=identifier, result=result)


for line in sys.stdin:
    message = json.loads(line)
    seen.append({"method": "", "params": {}, **message})
    params = message.get("params", {})
    match message.get("method"):
        case "initialize":
            info = {"name": "tiny", "version": "1"}
            send(
                id=message["id"],
                result={"protocolVersion": params["protocolVersion"], "capabilities": {}, "serverInfo": info},
            )
        case "server/discover" if "refuse" in params:
            send(id=message["id"], error={"code": params["refuse"], "message": "no", "data": os.getpid()})
        case "subscriptions/listen":
            listening.append(message["id"])
            stamp = {"io.modelcontextprotocol/subscriptionId": message["id"]}
            send(method="notifications/subscriptions/acknowledged", params={"notifications": {}, "_meta": stamp})
        case "notifications/roots/list_changed" if armed:
            question = armed.pop()
            send(id=question["id"], method=question["method"], params={})
        case None if message.get("id") in filed:
            partial = Path(filed[message["id"]] + ".partial")
            partial.write_text(json.dumps(message), "utf-8")
            partial.rename(filed.pop(message["id"]))
        case None if message.get("id") in asking:
            send(id=asking.pop(message["id"]), result={"answer": message})
        case "tools/call":
            call(message["id"], params["name"], params.get("arguments", {}), params.get("_meta", {}))
        case str() if "id" in message:
            send(id=message["id"], result={"method": message["method"]})
