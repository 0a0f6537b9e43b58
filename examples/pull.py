"""Pulls events from a relay: RELAY_URL, RELAY_TOKEN (scope deliveries:write). python examples/pull.py sub_..."""

import json
import os
import sys
import time
import urllib.request

BASE = f"{os.environ.get('RELAY_URL', 'http://127.0.0.1:8080')}/v1/subscriptions/{sys.argv[1]}"
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('RELAY_TOKEN', '')}"}


def post(action, **body):
    request = urllib.request.Request(f"{BASE}/{action}", json.dumps(body).encode(), HEADERS)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def handle(event, delivery_id):  # may come twice: drop delivery ids that you know
    print(event["type"], event.get("subject"), flush=True)


while True:
    try:
        for item in post("pull", max=100, wait_seconds=20, lease_seconds=60)["items"]:
            handle(item["event"], item["delivery_id"])
            post("ack", ids=[item["delivery_id"]])  # what is not acknowledged comes again, in order
    except OSError as error:  # the relay is away
        print(error, file=sys.stderr)
        time.sleep(5)
