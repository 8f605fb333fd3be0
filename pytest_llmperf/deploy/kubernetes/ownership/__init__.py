"""What a session owns on a cluster, and that nothing of it stays."""
