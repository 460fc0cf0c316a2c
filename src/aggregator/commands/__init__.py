"""What each command of `usage-meter` does; `cli.py` has their names."""
