"""The machinery that finds, starts, watches and stops the servers of the tests."""
