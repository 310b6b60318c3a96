"""HTTP: parsing requests, writing answers, and nothing decided."""
