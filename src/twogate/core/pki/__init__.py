"""Certificates: profiles and issuing."""
