"""The official clients of upstreams, each used as its documentation shows, at a base URL. Not imported by tests: it
runs in an environment that has those clients and nothing of the relay.

`official_clients.py NAME KEY URL…` makes a job at each URL, waits for its end, and prints it as a line of JSON.
The pauses of this process are a fortieth of what a client asks for: the client stays as it is, its clock runs faster.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

FASTER = 40
SECONDS_BETWEEN_READS = 1.0
"""Where the caller waits by a loop of its own. Its documentation says a minute."""

_sleep = time.sleep
time.sleep = lambda seconds: _sleep(seconds / FASTER)


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


def databricks(key: str, url: str) -> Any:
    """https://docs.databricks.com/aws/en/dev-tools/sdk-python#create-a-job, and `result` of what `run_now` returns."""
    from databricks.sdk import WorkspaceClient

    run = WorkspaceClient(host=url, token=key).jobs.run_now(job_id=11223344).result()
    return run.as_dict()


def azure(key: str, url: str) -> Any:
    """`virtual_machines.begin_start` of azure-mgmt-compute: its answer has Azure-AsyncOperation."""
    from azure.mgmt.core.polling.arm_polling import ARMPolling

    machine = "/subscriptions/s1/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm1"
    return _operation(key, url, f"{machine}/start", "2025-04-01", ARMPolling())


def azure_core(key: str, url: str) -> Any:
    """`begin_analyze_document` of azure-ai-documentintelligence: its answer has Operation-Location."""
    from azure.core.polling.base_polling import LROBasePolling

    model = "/documentintelligence/documentModels/prebuilt-read:analyze"
    return _operation(key, url, model, "2024-11-30", LROBasePolling())


def _operation(key: str, url: str, path: str, version: str, polling: Any) -> Any:
    """As the generated clients of Azure's services do it.
    https://learn.microsoft.com/en-us/python/api/azure-core/azure.core.polling.lropoller"""
    from azure.core import PipelineClient
    from azure.core.credentials import AzureKeyCredential
    from azure.core.exceptions import HttpResponseError
    from azure.core.pipeline import policies
    from azure.core.polling import LROPoller
    from azure.core.rest import HttpRequest

    with_key = policies.AzureKeyCredentialPolicy(AzureKeyCredential(key), "Authorization", prefix="Bearer")
    usual = (policies.RequestIdPolicy, policies.UserAgentPolicy, policies.RedirectPolicy, policies.RetryPolicy)
    client = PipelineClient(url, policies=[*(policy() for policy in usual), with_key])
    request = HttpRequest("POST", client.format_url(path), params={"api-version": version})
    poller = LROPoller(client, client._pipeline.run(request), lambda last: last.http_response.json(), polling)
    try:
        return poller.result()
    except HttpResponseError as error:
        return {"status": poller.status(), "code": error.error.code}


if __name__ == "__main__":
    name, key, *urls = sys.argv[1:]
    with ThreadPoolExecutor() as threads:
        for found in threads.map(partial(globals()[name], key), urls):
            print(json.dumps(found))
