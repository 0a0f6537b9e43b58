"""What all tests share."""

from hypothesis import settings

# The time that one example takes says more about the machine's load than about the code: tests run in parallel.
settings.register_profile("relay", deadline=None, print_blob=True)
settings.load_profile("relay")
