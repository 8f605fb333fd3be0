"""The cluster's API: who asks, what was refused, what changes."""
