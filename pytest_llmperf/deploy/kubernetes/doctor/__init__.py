"""What a cluster must have and allow before anything is deployed."""
