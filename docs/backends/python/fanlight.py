"""What a backend does with Fanlight: check its webhooks, publish, mint tokens."""

import base64
import hashlib
import hmac
import json
import time
import urllib.error
import urllib.request


def webhook_key(secret: str | None) -> bytes:
    """What webhooks are signed with. A secret that is missing or short would let anybody sign them."""
    secret = secret or ""
    key = base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()
    if len(key) < 24:
        raise ValueError("the webhooks' secret is missing, or has fewer than 24 bytes")
    return key


def is_genuine(headers, body: bytes, secret: str, now: float | None = None) -> bool:
    """Whether a webhook comes from the gateway, unchanged and just now (Standard Webhooks)."""
    timestamp = headers.get("webhook-timestamp", "")
    # Python refuses to read numbers of thousands of digits.
    if not timestamp.isdecimal() or len(timestamp) > 15:
        return False
    if abs((now or time.time()) - int(timestamp)) > 300:
        return False
    signed = f"{headers.get('webhook-id', '')}.{timestamp}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.digest(webhook_key(secret), signed, hashlib.sha256)).decode()
    # There are several while a secret is being replaced by another.
    given = headers.get("webhook-signature", "").split(" ")
    return any(hmac.compare_digest(each.encode(), expected.encode()) for each in given)


class Refused(Exception):
    """What the server API takes from nobody, such as a message that is too large: no use in trying again."""

    def __init__(self, status: int, body: bytes):
        try:
            problem = json.loads(body)
        except ValueError:
            problem = {}
        super().__init__(problem.get("detail", f"the server API said {status}"))
        self.status = status
        self.code = problem.get("code", "refused")


def publish(url: str, api_key: str, to: str, data, key: str) -> dict:
    """Publishes once for each key within five minutes, so whoever gets no answer tries again."""
    headers = {
        "authorization": f"Bearer {api_key}",
        "content-type": "application/json",
        "idempotency-key": key,
    }
    body = json.dumps({"to": to, "data": data}).encode()
    request = urllib.request.Request(f"{url}/publish", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        if error.code in (400, 413, 422):
            raise Refused(error.code, error.read()) from None
        raise


def mint_token(user: str, seconds: int, secret: str) -> str:
    """A token (JWT, HS256) for a user that is good for so many seconds."""

    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    claims = {"sub": user, "exp": int(time.time()) + seconds}
    signed = encode(b'{"alg":"HS256","typ":"JWT"}') + "." + encode(json.dumps(claims).encode())
    return signed + "." + encode(hmac.digest(secret.encode(), signed.encode(), hashlib.sha256))
