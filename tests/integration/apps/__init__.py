"""Apps that integration tests run in processes of their own."""
