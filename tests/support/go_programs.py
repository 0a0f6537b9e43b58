"""Programs from the Go module proxy, such as helm, built once into `.venv-go`, and the files of a module.

`make clean` removes the programs. Where Go is missing, or the proxy cannot be reached, the test is skipped with a loud
line.
"""

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.lock import ROOT

BUILD_SECONDS = 900.0
"""Enough for a busy machine without a build cache."""
PLACE = ROOT / ".venv-go"
HELM = "helm.sh/helm/v3/cmd/helm@v3.22.0"
KUBECTL_VALIDATE = "sigs.k8s.io/kubectl-validate@v0.0.4"
GATEWAY_API = "sigs.k8s.io/gateway-api@v1.6.3"
PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"


def go_program(module: str) -> Path:
    """The program of a module such as `example.com/cmd/name@v1.2.3`. Skips the test if it cannot be built."""
    path, _, version = module.partition("@")
    name = path.rpartition("/")[2]
    folder = PLACE / f"{name}-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tests run in several processes
        if not (folder / name).exists():
            _go(name, "install", module, GOBIN=str(folder), GOFLAGS="-buildvcs=false -ldflags=-s")
    return folder / name


def go_module(module: str) -> Path:
    """The folder with the files of a module. Skips the test if it cannot be downloaded."""
    found: Mapping[str, str] = json.loads(_go(module, "mod", "download", "-json", module))
    return Path(found["Dir"])


def _go(name: str, *arguments: str, **variables: str) -> str:
    go = shutil.which("go")
    if go is None:
        pytest.skip(f"{name.upper()} IS NOT HERE, NOT CHECKED: it is built with Go, which is not here")
    environ = {**os.environ, **variables}
    try:
        ran = subprocess.run(
            [go, *arguments], cwd=PLACE.parent, env=environ, capture_output=True, text=True, timeout=BUILD_SECONDS
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{name.upper()} IS NOT HERE, NOT CHECKED: go took longer than {BUILD_SECONDS:g} s")
    if ran.returncode != 0:
        why = (ran.stderr.strip().splitlines() or ["it failed"])[-1]
        pytest.skip(f"{name.upper()} IS NOT HERE, NOT CHECKED: go {arguments[0]} failed: {why}")
    return ran.stdout
