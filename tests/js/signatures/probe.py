"""Says of each signature whether fanlight.py takes it; see ../signatures.mjs."""

import sys

from fanlight import is_genuine

words = sys.argv[1:]
while words:
    timestamp, signature, secret, now, *words = words
    headers = {"webhook-id": "msg_1", "webhook-timestamp": timestamp, "webhook-signature": signature}
    try:
        print(str(is_genuine(headers, b"{}", secret, float(now))).lower())
    except ValueError as error:
        print("refused:", error)
