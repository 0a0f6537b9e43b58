"""Expressions that users write: filters in CEL, templates in Liquid. Both are compiled once and bounded.

Each language is an extra; what needs one that is not installed names it, with the command that installs it.
"""
