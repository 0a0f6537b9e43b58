"""Real brokers for tests, on loopback and in temporary folders: started, killed, and cut off by a port that closes."""
