"""State behind the Protocols that flows declare."""
