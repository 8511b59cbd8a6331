"""Live figures of this machine and of the gateways, published by Fanlight's server API.

Twenty times a second they are measured and published; that a page gets no more than it can show is
the gateway's concern (`conflate`). Nothing but Python's standard library is needed.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import signal
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from measure import Measures

GATEWAY = os.environ["GATEWAY"]
GATEWAY_API = os.environ["GATEWAY_API"]
GATEWAY_METRICS = os.environ["GATEWAY_METRICS"].split(",")
PORT = int(os.environ.get("PORT", "8103"))
WEB = Path(os.environ.get("WEB", "../web"))
API_KEY = Path(os.environ["API_KEY_FILE"]).read_text().strip()
JWT_SECRET = Path(os.environ["JWT_SECRET_FILE"]).read_text().strip()
INTERVAL = 0.05

FILES = {
    "/": (Path("index.html"), "text/html"),
    "/app.js": (Path("app.js"), "text/javascript"),
    "/web/style.css": (WEB / "style.css", "text/css"),
    "/web/page.js": (WEB / "page.js", "text/javascript"),
}


def mint_token(user: str) -> str:
    """A token (JWT, HS256) that the gateway accepts for an hour."""

    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    head = encode(b'{"alg":"HS256","typ":"JWT"}')
    claims = encode(json.dumps({"sub": user, "exp": int(time.time()) + 3600}).encode())
    signature = hmac.new(JWT_SECRET.encode(), f"{head}.{claims}".encode(), hashlib.sha256).digest()
    return f"{head}.{claims}.{encode(signature)}"


def publish(figures: dict[str, float], number: int) -> None:
    """One request for all of them. What could not be sent is out of date when it could: it is dropped."""
    at = int(time.time() * 1000)
    messages = [
        {"to": f"/topic/metrics.{name}", "data": {"value": value, "n": number, "at": at}}
        for name, value in figures.items()
    ]
    request = urllib.request.Request(
        f"{GATEWAY_API}/batch",
        data=json.dumps({"messages": messages}).encode(),
        headers={"authorization": f"Bearer {API_KEY}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=5) as response:
        outcomes = json.load(response)["outcomes"]
    refused = [outcome["error"] for outcome in outcomes if "error" in outcome]
    if refused:
        raise RuntimeError(f"{len(refused)} were refused: {refused[0]}")


def publish_forever() -> None:
    measures = Measures(GATEWAY_METRICS)
    number = 0
    due = time.monotonic()
    while True:
        number += 1
        try:
            publish(measures.take(), number)
        except (OSError, RuntimeError) as error:
            print(f"not published: {error}", file=sys.stderr)
        # Not piled up where the gateway is slower than the clock.
        due = max(due + INTERVAL, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


class Handler(BaseHTTPRequestHandler):
    """The page, and a token for whoever opens it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urllib.parse.urlsplit(self.path).path
        if path in FILES:
            file, kind = FILES[path]
            self.answer(file.read_bytes(), f"{kind}; charset=utf-8")
        elif path == "/session":
            # A real application would ask who is there; here everybody may look.
            session = {"token": mint_token(f"viewer-{secrets.token_hex(4)}"), "gateway": GATEWAY}
            self.answer(json.dumps(session).encode(), "application/json")
        else:
            self.send_error(404)

    def answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("cache-control", "no-store")
        self.send_header("content-security-policy", f"default-src 'self'; img-src data:; connect-src 'self' {GATEWAY}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Requests are not logged."""


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    threading.Thread(target=publish_forever, daemon=True).start()
    print(f"dashboard at http://127.0.0.1:{PORT}")
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()


main()
