"""Campaigns, and who gives to them."""
