"""Small videos of known truth, and the generator that made them."""
