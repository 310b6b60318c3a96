"""The data plane. Read pipeline.py first: it is one call's way through both gates."""
