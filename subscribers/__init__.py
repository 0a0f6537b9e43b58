"""The kinds of sinks: how each renders an event into a request, and what it makes of the response. No I/O here."""
