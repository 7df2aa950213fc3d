"""Floor 1: SQL once. Connections, named statements, migrations and the group-committing writer."""
