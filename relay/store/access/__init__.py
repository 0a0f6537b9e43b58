"""Tokens, sessions, the audit, stored responses, and rotation of the encryption keys."""
