"""What the command line looks like: errors, progress, tables, and a clean stop. Only `cli.py` uses it."""
