"""Access: tokens, sessions, the audit, encryption keys, and the addresses that may be used."""
