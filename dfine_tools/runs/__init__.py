"""Training runs started, restarted, swept over and compared."""
