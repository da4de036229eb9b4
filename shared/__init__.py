"""What the six services share. No business words here, except in `contracts/`."""
