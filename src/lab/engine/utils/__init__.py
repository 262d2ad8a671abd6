"""What every room uses; imports nothing of lab."""
