"""What people see of all of it: built from the messages alone, and from them again at any time."""
