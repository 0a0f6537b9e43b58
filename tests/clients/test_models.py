"""The models of the Python client are those of the API."""

import os
from pathlib import Path

import pytest

from tests.support.client_models import MODELS, generated
from tests.support.environments import artefacts_python

pytestmark = pytest.mark.verify


def test_generating_the_models_again_gives_the_same_file(tmp_path: Path) -> None:
    """With UPDATE_CLIENTS it writes the file."""
    made = generated(artefacts_python(), tmp_path)
    if os.environ.get("UPDATE_CLIENTS"):
        MODELS.write_text(made)
    assert made == MODELS.read_text(), "run it again with UPDATE_CLIENTS=1, and commit the file"
