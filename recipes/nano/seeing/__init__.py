"""What a tower learns: things and codes at the tokens that show them."""
