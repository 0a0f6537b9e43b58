"""All SQL of the program, and nothing but SQL. Rows never leave this package; values of `relay.core` do."""
