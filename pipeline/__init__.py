"""How one video becomes rows. No cluster, no torch."""
