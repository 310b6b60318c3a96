"""Operation tokens: who may issue them, and that each is used once."""
