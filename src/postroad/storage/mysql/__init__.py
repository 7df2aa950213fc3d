"""MySQL 8 and MariaDB 10.6 and newer, through PyMySQL."""
