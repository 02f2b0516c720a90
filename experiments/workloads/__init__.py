"""What models are given to do."""
