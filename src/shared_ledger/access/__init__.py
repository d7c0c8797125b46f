"""Who may call, and what he may do: users, passwords, tokens, and the keys of services."""
