"""Bad inputs, what is done about each, and how it is said: cases, their table, and long runs."""
