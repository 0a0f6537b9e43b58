"""A node whose settings name keys of metadata finds jobs by them, however the jobs came."""

import json
from pathlib import Path

from tests.support.dropin_requests import DISPATCH, DISPATCHES
from tests.support.e2e_world import KEY, open_e2e_world


async def test_jobs_are_found_by_the_metadata_of_their_registration_header_and_create(tmp_path: Path) -> None:
    async with open_e2e_world(tmp_path, search_keys=("deal",)) as world:
        registered = await world.job(metadata={"deal": 1})
        headers = {"Authorization": f"Bearer {KEY}", "Relay-Metadata": json.dumps({"deal": "two"})}
        body = {**DISPATCH, "metadata": {"deal": True, "sequence": "spring"}}
        created = (await world.api.post(DISPATCHES, json=body, headers=headers)).json()["item"]["id"]
        for value, ids in {"1": [registered], "two": [created], "true": [created], "spring": []}.items():
            found = (await world.api.get("/v1/jobs", params={"metadata": f"deal:{value}"})).json()["items"]
            assert [job["id"] for job in found] == ids, value
        unknown = await world.api.get("/v1/jobs", params={"metadata": "sequence:spring"})
        assert (unknown.status_code, unknown.json()["errors"][0]["code"]) == (422, "unknown_key")
