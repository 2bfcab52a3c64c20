"""The rules that test_architecture.py checks."""

# What each folder or flat module may import of ours; a folder may import itself. In the order of the imports: each line
# names only what stands above it.
ALLOWED = {
    "errors": "",
    "core": "errors",
    "config": "core errors",
    "tracking": "errors",
    "commands": "config errors tracking",
    "stages": "config core tracking",
    "cli": "*",
}
ONLY_IN = {  # heavy or replaceable libraries, and the only places that may know them
    "mlflow": {"tracking"},
    "sklearn": {"stages"},
    "typer": {"cli"},
}
NO_TORCH = ("config", "core", "tracking")
