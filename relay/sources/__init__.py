"""Sources: what the relay watches. A definition for each as data, the client that looks, the pure mapping."""
