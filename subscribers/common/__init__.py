"""What the kinds of one family share: chats, CRMs, brokers, and the kinds that take a template."""
