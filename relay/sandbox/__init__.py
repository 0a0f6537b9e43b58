"""A stand-in for Revor's API v1: a seeded world of jobs with true times, limits and faults, served over HTTP.

It shares no code with the relay except the leaf `clock`, so that a misunderstanding of the upstream in one is not
repeated in the other.
"""
