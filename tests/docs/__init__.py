"""What newcomers read is executed."""
