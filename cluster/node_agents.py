"""Stands where Ray has two programs beside each node, in a Ray that is one run's own.

`node_agents.py PROGRAM --NAME=VALUE...`, as Ray starts its own. One of them serves pages, metrics
and jobs, which nobody asks such a Ray for. The other makes workers' environments: here one has its
variables and a command in place of Python, and whatever else is asked for is handed on to Ray's
own, which starts then. Ray's take three times what it takes to import Ray, and 200 MiB. A node
waits for its agents' ports, and both end with it. As Ray's own, it answers who has Ray's token.
"""

import hmac
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

UNSERVED = ("dashboard_agent_listen_port", "metrics_agent_port", "metrics_export_port")
PORT, THEIR_PORT = "runtime_env_agent_port", "--runtime-env-agent-port"
GIVEN = {"env_vars", "py_executable"}
"""Parts of an environment that need nothing to be made."""
LOOK_S = 1.0
PR_SET_PDEATHSIG = 1
START_S, MADE_S = 60.0, 3600.0
"""Longest waits for Ray's own: until it listens, and until it has made an environment."""


def main() -> None:
    told = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    look: Callable[[float], None] = time.sleep
    if "--runtime-env-dir" in told:
        theirs = Theirs(told["--node-ip-address"])
        write(told, PORT, serve(theirs, int(told[THEIR_PORT])))
        look = theirs.begin_if_wanted
    else:
        for name in UNSERVED:
            write(told, name, -1)  # as Ray's own where it does not serve
    raylet = int(os.environ["RAY_RAYLET_PID"])
    while os.getppid() == raylet:
        look(LOOK_S)


def write(told: Mapping[str, str], name: str, port: int) -> None:
    path = Path(told["--session-dir"]) / f"{name}_{told['--node-id']}"
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(str(port))
    unfinished.replace(path)


def serve(theirs: "Theirs", port: int) -> int:
    """The port at which environments are made from now on."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if not is_known(self.headers.get("Authorization", "")):
                self.send_error(401)
                return
            asked = self.rfile.read(int(self.headers["Content-Length"]))
            body = answer(self.path, asked)
            if body is None:
                body = theirs.ask(self.path, asked, dict(self.headers))
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((theirs.address, port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def is_known(authorization: str) -> bool:
    """Whether who asks has the token that Ray has been given, if it asks for one."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return True
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    token = os.environ.get("RAY_AUTH_TOKEN") or Path(path).read_text()
    return hmac.compare_digest(authorization.encode(), f"Bearer {token.strip()}".encode())


def answer(path: str, asked: bytes) -> bytes | None:
    """To a request, as Ray's protocol has both; None if it is Ray's own that must answer."""
    if path not in ("/get_or_create_runtime_env", "/delete_runtime_env_if_possible"):
        return None
    wanted = json.loads(fields(asked).get(1) or b"{}")
    if not wanted.keys() <= GIVEN:
        return None
    if path.startswith("/delete"):
        return b""  # done, and nothing to say of it
    context = json.dumps(wanted).encode()
    return bytes([3 << 3 | 2]) + varint(len(context)) + context


def fields(message: bytes) -> dict[int, bytes]:
    """Those of a protocol buffer that are texts, bytes or messages, by number."""
    found, at = {}, 0
    while at < len(message):
        tag, at = read_varint(message, at)
        value, at = read_varint(message, at)
        if tag & 7 == 2:
            found[tag >> 3] = message[at : at + value]
            at += value
        elif tag & 7:
            raise ValueError(f"a field of type {tag & 7} is not known")
    return found


def read_varint(message: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at


def varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


class Theirs:
    """Ray's own maker of environments, once somebody needs it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._wanted = threading.Event()
        self._port: int | None = None

    def ask(self, path: str, asked: bytes, headers: Mapping[str, str]) -> bytes:
        from http.client import HTTPConnection

        self._wanted.set()
        deadline = time.monotonic() + START_S
        while True:
            try:
                # Until it has begun, at a port at which nobody can listen.
                connection = HTTPConnection(self.address, self._port or 0, timeout=MADE_S)
                connection.connect()
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        connection.request("POST", path, asked, dict(headers))
        return connection.getresponse().read()

    def begin_if_wanted(self, wait_s: float) -> None:
        """To be called by the thread that lives longest: Ray's own is killed when it ends."""
        if self._port:
            time.sleep(wait_s)
        elif self._wanted.wait(wait_s):
            import ctypes
            import signal
            import socket

            with socket.create_server((self.address, 0)) as free:
                self._port = free.getsockname()[1]
            words = [
                f"{THEIR_PORT}={self._port}" if word.startswith(THEIR_PORT) else word
                for word in sys.argv[1:]
            ]
            libc = ctypes.CDLL(None)  # which nothing may look for between a fork and its program
            subprocess.Popen(
                [sys.executable, *words],
                env=os.environ | {"RAY_RAYLET_PID": str(os.getpid())},
                preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
            )


if __name__ == "__main__":
    main()
