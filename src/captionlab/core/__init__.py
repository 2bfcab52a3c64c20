"""Plumbing that every part uses and that decides no result: files, devices, processes, records."""
