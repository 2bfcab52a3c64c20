"""Fault injection into the real program: kills, damaged and malicious files, full disks, clock jumps.

``python -m torture``, run in ``tests``, injects all faults and renders reports/reliability.md; ``--short`` injects a
few of each kind, as the tests do.
"""
