"""`relay jobs`, `relay groups`, `relay intents`, `relay erase`."""
