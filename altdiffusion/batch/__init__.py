"""Millions of images or prompts: scored, embedded, filtered or generated, on one machine or on a cluster, and nothing twice.

The input is cut into partitions, each of which a worker turns into files of its own, the same bytes wherever it runs. A run
that is killed goes on where it stopped.
"""
