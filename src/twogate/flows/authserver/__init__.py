"""The embedded authorization server, one file an endpoint."""
