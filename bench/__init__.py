"""What one authorized call costs, measured beside a plain proxy in the same run. `python -m bench` runs it."""
