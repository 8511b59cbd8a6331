"""A backend behind Fanlight: says who may connect, answers messages, publishes, mints tokens."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from fanlight import is_genuine, mint_token, publish

API = (os.environ["GATEWAY_API"], os.environ["API_KEY"])


def answer(event: dict) -> dict:
    if event["type"] == "connect":
        if event["user"] in (None, "mallory"):
            return {"allow": False, "reason": "not welcome"}
        return {"allow": True}
    if event["type"] == "message":
        text = event["data"]["text"]
        # To all by the server API, under the webhook's own id: a retry publishes nothing twice.
        publish(*API, "/topic/greetings", {"from": event["user"], "text": text}, event["id"])
        # To the session that sent it, as the answer.
        reply = {"to": "/user/queue/replies", "only": "session", "data": {"heard": text}}
        return {"send": [reply]}
    return {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if not is_genuine(self.headers, body, os.environ["WEBHOOK_SECRET"]):
            return self.respond(401, "no good signature")
        try:
            self.respond(200, json.dumps(answer(json.loads(body))))
        except OSError as error:
            # The sender is told that it did not work.
            self.respond(503, str(error))

    def do_GET(self):
        # A real one asks who is there.
        user = parse_qs(urlsplit(self.path).query)["user"][0]
        self.respond(200, mint_token(user, 3600, os.environ["JWT_SECRET"]))

    def respond(self, status: int, text: str):
        self.send_response(status)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
