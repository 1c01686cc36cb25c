"""Published ways of carrying knowledge from trained networks to others, one module each."""
