"""Templates in Liquid: compiled once and bounded.

The language is an optional extra. Without it, features that need it report the command that installs it.
"""
