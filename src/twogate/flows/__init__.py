"""Use cases: what happens in which order, against Protocols that stores and adapters implement."""
