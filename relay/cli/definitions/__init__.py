"""Commands about definitions of sources: they are played, tested and drafted without a running relay."""
