"""revor-relay: turns a pull-only job API into a push API."""

__version__ = "0.2.0"


def build() -> str:
    """The commit and day that this relay was built from. Says `from source` where nothing was built."""
    try:
        with open(f"{__path__[0]}/_build.txt", encoding="ascii") as file:
            return file.read()
    except OSError:
        return "from source"
