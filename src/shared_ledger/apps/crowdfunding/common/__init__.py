"""What the contexts share: amounts, what is due, and where they run. Nothing of their domains."""
