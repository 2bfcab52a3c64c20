"""Scores and figures to Markdown, CSV, HTML and PNG. Knows files and numbers, no model, no torch, no tracking."""
