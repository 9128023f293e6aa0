"""The whole service while something breaks: a stream of numbered alerts, one fault after another, and what came of it.

`make faults` runs all of them and prints a table; docs/reliability.md explains it.
"""
