"""Runs in MLflow, and its UI."""
