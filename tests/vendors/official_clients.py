"""The official clients of upstreams, each used as its documentation shows, at a base URL. Not imported by tests: it
runs in an environment that has those clients and nothing of the relay.

`official_clients.py NAME KEY URL…` makes a job at each URL in turn, waits for its end, and prints it as a line of JSON.
"""

import json
import sys
import time
from typing import Any

SECONDS_BETWEEN_READS = 0.05
"""Where the caller waits by a loop of its own. Its documentation says a minute."""


def replicate(key: str, url: str) -> Any:
    """https://github.com/replicate/replicate-python#run-a-model-in-the-background"""
    from replicate import Client

    client = Client(api_token=key, base_url=url)
    prediction = client.models.predictions.create("replicate/hello-world", input={"text": "Alice"})
    prediction.wait()
    return json.loads(prediction.json())


def openai(key: str, url: str) -> Any:
    """https://platform.openai.com/docs/guides/batch#4-check-the-status-of-a-batch"""
    from openai import OpenAI

    client = OpenAI(api_key=key, base_url=f"{url}/v1")
    batch = client.batches.create(
        input_file_id="file-abc123",
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"description": "nightly eval job"},
    )
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(SECONDS_BETWEEN_READS)
        batch = client.batches.retrieve(batch.id)
    return batch.model_dump(mode="json")


def anthropic(key: str, url: str) -> Any:
    """https://docs.anthropic.com/en/docs/build-with-claude/batch-processing#tracking-your-batch"""
    from anthropic import Anthropic

    client = Anthropic(api_key=key, base_url=url)
    message = {"model": "claude-opus-4-1", "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}
    batch = client.messages.batches.create(requests=[{"custom_id": "first", "params": message}])
    while batch.processing_status != "ended":
        time.sleep(SECONDS_BETWEEN_READS)
        batch = client.messages.batches.retrieve(batch.id)
    return batch.model_dump(mode="json")


def apify(key: str, url: str) -> Any:
    """https://docs.apify.com/api/client/python/docs/overview/introduction; `call` waits by `waitForFinish`."""
    from apify_client import ApifyClient

    run = ApifyClient(key, api_url=url).actor("acme/scraper").call(run_input={"pages": 12}, logger=None)
    return run.model_dump(mode="json")


if __name__ == "__main__":
    name, key, *urls = sys.argv[1:]
    for url in urls:
        print(json.dumps(globals()[name](key, url)), flush=True)
