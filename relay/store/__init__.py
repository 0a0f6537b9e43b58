"""All SQL of the program, and nothing but SQL. Rows never leave this package; values of `relay.core` do.

Statements are written in one of two tiers:

- Cold paths (subscriptions, replays, list pages, one record by id) use SQLAlchemy's `select()`, `update()` and
  `delete()` on the SQLModel classes of `tables`.
- Hot paths (registration, polls, claims, attempts, streams, upkeep of large tables) use SQL text or Core tables through
  `statements`, which passes it to SQLite's driver without SQLAlchemy's per-row work. Each such statement has a comment
  that says what it does, and its plan is tested on both databases (tests/support/store_catalogue.py).

Every write is a batch function run by group commit (`group_commit`); reads are plain functions of a connection.
"""
