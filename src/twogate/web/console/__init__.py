"""Pages for people who decide, operate and look: `/console` and `/approvals`."""
