"""`relay events`, `relay listen`."""
