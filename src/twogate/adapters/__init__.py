"""The outside world behind the Protocols that flows declare: clock, randomness, network, processes, files."""
