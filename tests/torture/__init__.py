"""Faults of every kind, inflicted on the real program: kills, damaged and hostile files, full disks, jumping clocks.

``python -m torture`` in this folder's parent tries them all and renders reports/reliability.md; ``--short`` tries a few
of each, which is what the tests do.
"""
