"""Results as people read them: tables for the terminal."""
