"""Who takes part. Names and passwords are the service's; here a user becomes an account."""
