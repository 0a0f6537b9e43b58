"""Sources: each upstream's definition as data, the client that polls it, and the pure mapping of its answers."""
