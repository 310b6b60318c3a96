"""Calls that wait for people: parking them, voting, and what becomes of them."""
