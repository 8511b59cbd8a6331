"""A backend behind Fanlight: says who may connect, answers messages, hears of disconnects, pushes
to users, mints tokens."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit
from uuid import uuid4

from fanlight import Refused, is_genuine, mint_token, publish, webhook_key

API = (os.environ["GATEWAY_API"], os.environ["API_KEY"])
# Ends it here, rather than to take what anybody has signed.
webhook_key(os.environ.get("WEBHOOK_SECRET"))


def answer(event: dict) -> dict:
    try:
        return handle(event)
    except Refused as refused:
        # Not this backend's failure: the client is told.
        return {"error": {"code": refused.code, "message": str(refused)}}


def handle(event: dict) -> dict:
    match event["type"]:
        case "connect":
            if event["user"] in (None, "mallory"):
                return {"allow": False, "reason": "not welcome"}
            return {"allow": True}
        case "message":
            return greet(event["id"], event["user"], event["data"])
        case "disconnected":
            # Of one session; its user may have others. Told again until this succeeds.
            publish(*API, "/topic/greetings", {"left": event.get("user")}, event["id"])
    return {}


def greet(id: str, user: str, data) -> dict:
    text = data.get("text") if isinstance(data, dict) else None
    if not isinstance(text, str):
        # What is the client's fault is an answer: failures count against this backend.
        return {"error": {"code": "bad_greeting", "message": "`text` is missing"}}
    # To all by the server API, under the webhook's own id: a retry publishes nothing twice.
    publish(*API, "/topic/greetings", {"from": user, "text": text}, id)
    # To the session that sent it, as the answer.
    reply = {"to": "/user/queue/replies", "only": "session", "data": {"heard": text}}
    return {"send": [reply]}


def notify(user: str, text: str) -> dict:
    """To all sessions of a user, wherever they are. The key is of what happened, not of the attempt."""
    return publish(*API, f"/user/{quote(user, safe='')}/queue/alerts", {"text": text}, str(uuid4()))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            # A real one has nobody else notify its users.
            if urlsplit(self.path).path == "/notify":
                self.respond(200, json.dumps(notify(self.user(), body.decode())))
            elif is_genuine(self.headers, body, os.environ["WEBHOOK_SECRET"]):
                self.respond(200, json.dumps(answer(json.loads(body))))
            else:
                self.respond(401, "no good signature")
        except Refused as refused:
            self.respond(refused.status, str(refused))
        except OSError as error:
            # The sender is told that it did not work.
            self.respond(503, str(error))

    def do_GET(self):
        # A real one asks who is there.
        self.respond(200, mint_token(self.user(), 3600, os.environ["JWT_SECRET"]))

    def user(self) -> str:
        return parse_qs(urlsplit(self.path).query)["user"][0]

    def respond(self, status: int, text: str):
        self.send_response(status)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
