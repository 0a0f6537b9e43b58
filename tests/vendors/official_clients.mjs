// The official client of GitHub, used as its documentation shows, at a base URL: see official_clients.py.
import { setTimeout } from "node:timers/promises";
import { Octokit } from "@octokit/rest";

const [key, ...urls] = process.argv.slice(2);
const SECONDS_BETWEEN_READS = 0.05;

// https://octokit.github.io/rest.js
async function run(baseUrl) {
  const { actions } = new Octokit({ auth: key, baseUrl }).rest;
  const repo = { owner: "octocat", repo: "hello" };
  const asked = { ...repo, workflow_id: "build.yml", ref: "main", return_run_details: true };
  const { data: made } = await actions.createWorkflowDispatch(asked);
  while (true) {
    const { data } = await actions.getWorkflowRun({ ...repo, run_id: made.workflow_run_id });
    if (data.status === "completed") return data;
    await setTimeout(SECONDS_BETWEEN_READS * 1000);
  }
}

for (const found of await Promise.all(urls.map(run))) console.log(JSON.stringify(found));
