"""Raw SQL that every supported version of PostgreSQL accepts: up to 15, a subquery in FROM must have a name."""

import re

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
