"""What the console shows and is told of: ports and flows that only its pages need."""
