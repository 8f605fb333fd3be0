"""From a ready pod to an address that a load can be sent to."""
