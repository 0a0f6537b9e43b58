"""The common parts of chats, CRMs, brokers, and kinds that take a template."""
