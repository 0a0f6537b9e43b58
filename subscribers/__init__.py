"""The kinds of sinks: each renders an event into a request, and judges the response. No I/O here."""
