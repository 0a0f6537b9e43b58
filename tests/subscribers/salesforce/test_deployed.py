"""What `deploy/salesforce` defines is what the kind writes and what the stand-in knows."""

from pathlib import Path
from xml.etree import ElementTree

from subscribers.salesforce.answers import KEY_FIELD, PEOPLE
from subscribers.salesforce.render import names_of
from tests.vendors.salesforce import JOB_EVENT, TASK, Field

XML = {"": "http://soap.sforce.com/2006/04/metadata"}
TYPES = {
    **{"Text": "string", "LongTextArea": "textarea", "DateTime": "datetime", "Number": "double", "Url": "url"},
    "Lookup": "reference",
}


def deployed(name: str) -> ElementTree.Element:
    return ElementTree.parse(Path(__file__).parents[3] / "deploy/salesforce" / name).getroot()


def texts_of(element: ElementTree.Element) -> dict[str, str]:
    return {one.tag.partition("}")[2]: one.text or "" for one in element}


def defined(name: str) -> dict[str, Field]:
    """The fields of a definition, as the stand-in knows them."""
    found = {}
    for given in map(texts_of, deployed(name).findall("fields", XML)):
        refers = (given["referenceTo"],) if "referenceTo" in given else ()
        length = 255 if given["type"] == "Url" else 18 if refers else int(given.get("length", "0"))
        flags = {flag: given.get(flag) == "true" for flag in ("required", "unique")}
        assert given.get("externalId", "false") == given.get("unique", "false")
        found[given["fullName"]] = Field(TYPES[given["type"]], length, refers=refers, **flags)
    return found


def test_stand_in_has_the_fields_that_are_deployed() -> None:
    assert defined("objects/Job_Event__c.object") == JOB_EVENT
    assert defined("objects/Activity.object") == {"Event_Id__c": TASK["Event_Id__c"]}


def test_permission_set_lets_every_optional_field_be_written_and_nothing_be_deleted() -> None:
    root = deployed("permissionsets/Revor_Relay.permissionset")
    fields = [texts_of(one) for one in root.findall("fieldPermissions", XML)]
    editable = {one["field"] for one in fields if one["editable"] == "true"}
    assert editable == {
        "Task.Event_Id__c",
        *(f"Job_Event__c.{name}" for name, one in JOB_EVENT.items() if not one.required),
    }
    objects = [texts_of(one) for one in root.findall("objectPermissions", XML)]
    assert {one["object"] for one in objects if one["allowEdit"] == "true"} == {"Job_Event__c"}
    assert {one["allowDelete"] for one in objects} == {"false"}
    readable = {one["field"] for one in fields if one["readable"] == "true"} - editable
    assert readable == {f"{object}.{name}" for object in PEOPLE for name in ("Email", "Phone", "MobilePhone")}


def test_definition_has_what_the_kind_writes_and_nothing_else() -> None:
    assert {KEY_FIELD, *names_of("Job_Event__c")} == set(defined("objects/Job_Event__c.object"))
    assert {KEY_FIELD} == set(defined("objects/Activity.object"))
    assert {KEY_FIELD, *names_of("Task")} == set(TASK)


def test_package_lists_every_file_that_is_deployed() -> None:
    listed = {
        (one.findtext("name", namespaces=XML), member.text)
        for one in deployed("package.xml").findall("types", XML)
        for member in one.findall("members", XML)
    }
    assert listed == {
        ("CustomObject", "Job_Event__c"),
        ("CustomField", "Activity.Event_Id__c"),
        ("PermissionSet", "Revor_Relay"),
    }
    folder = Path(__file__).parents[3] / "deploy/salesforce"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "package.xml",
        "objects/Job_Event__c.object",
        "objects/Activity.object",
        "permissionsets/Revor_Relay.permissionset",
    }
