"""The database: all SQL, and nothing but SQL. Rows never leave this package; values do."""
