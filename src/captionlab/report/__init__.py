"""The report: scores and figures as Markdown, CSV, HTML and PNG. Knows results; nothing of models or tracking."""
