"""Raw SQL that every supported version of PostgreSQL accepts: up to 15, a subquery in FROM must have a name."""

import re

import pytest

from relay.store.databases.statements import TEXT, sql
from tests.support.named_statements import named_statements

OPENS = re.compile(r"\b(?:FROM|JOIN|LATERAL)\s*\((?=\s*(?:SELECT|WITH|VALUES)\b)", re.IGNORECASE)
NAMED = re.compile(r"\s*(?:AS\s+)?(?!(?:WHERE|ON|GROUP|ORDER|LIMIT|UNION|JOIN|CROSS|FOR)\b)[a-z_]\w*", re.IGNORECASE)


def unnamed(statement: str) -> list[str]:
    """The subqueries in FROM that have no name."""
    found = []
    for opened in OPENS.finditer(statement):
        depth, end = 1, opened.end()
        while depth and end < len(statement):
            depth += {"(": 1, ")": -1}.get(statement[end], 0)
            end += 1
        if depth == 0 and NAMED.match(statement, end) is None:
            found.append(statement[opened.start() : end])
    return found


def test_every_subquery_of_the_store_has_a_name() -> None:
    statements = named_statements()
    assert any(OPENS.search(text) for text in statements.values())
    assert {name: found for name, text in statements.items() if (found := unnamed(text))} == {}


@pytest.mark.parametrize(
    ("statement", "count"),
    [
        ("SELECT 1 FROM (SELECT 2)", 1),
        ("SELECT 1 FROM (SELECT 2) WHERE true", 1),
        ("SELECT 1 WHERE 3 IN (SELECT a FROM (SELECT (4) AS a))", 1),
        ("SELECT 1 FROM (SELECT 2) AS found", 0),
        ("SELECT 1 FROM (SELECT max(2)) found WHERE true", 0),
        ("SELECT 1 FROM a CROSS JOIN LATERAL (SELECT 2)", 1),
    ],
)
def test_unnamed_subquery_is_seen(statement: str, count: int) -> None:
    assert len(unnamed(statement)) == count


@pytest.mark.parametrize(
    "template",
    [
        "SELECT a FROM $json_rows(rows)",
        "SELECT a FROM t WHERE a IN (SELECT a FROM $json_rows(rows))",
        "SELECT a FROM t JOIN $json_rows(rows) ON true",
        "SELECT a FROM $json_values(rows)",
    ],
)
def test_list_in_from_needs_a_name(template: str) -> None:
    with pytest.raises(ValueError, match=r"needs an alias: write .*\(rows\) AS name"):
        sql(template, rows={"a": TEXT})
    assert sql(template.replace("(rows)", "(rows) AS wanted"), rows={"a": TEXT}).postgresql is not None
