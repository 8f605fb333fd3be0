"""From applied objects to pods that serve, or to why they never will."""
