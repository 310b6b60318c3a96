"""OAuth messages and profiles, one file each."""
