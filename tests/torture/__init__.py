"""Fault injection into the real program: kills, damaged and malicious files, full disks, clock jumps.

``python -m torture``, run in ``tests``, injects all of them and renders reports/reliability.md; ``--short`` injects a
few of each, as the tests do.
"""
