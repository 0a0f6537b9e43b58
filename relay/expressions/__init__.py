"""Templates in Liquid: compiled once and bounded.

The language is an extra; what needs it without it says so, with the command that installs it.
"""
