"""`relay salesforce-definition`: object, fields and permissions for a subscription to Salesforce, as files."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from relay.cli.output import say
from relay.errors import UsageError


def salesforce_definition(
    folder: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")] = Path("salesforce"),
) -> None:
    """Write what a subscription to Salesforce needs in the org, as files for Salesforce's own command sf."""
    from relay import resources

    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists already. Name a folder that does not")
    try:
        shutil.copytree(resources.salesforce_dir(), folder)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}") from None
    say(f"wrote {folder}: the object Job_Event__c, the field Event_Id__c of tasks, and the permission set Revor_Relay")
    say(f"next: sf project deploy start --metadata-dir {folder} --target-org ORG --wait 10")
    say("then: sf org assign permset --name Revor_Relay --on-behalf-of USER --target-org ORG")
