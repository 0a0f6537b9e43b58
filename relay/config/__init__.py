"""Settings: from relay.yaml and the environment, with file and line in every error. Start at `settings.py`."""
