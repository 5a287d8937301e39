"""What things are: the frozen types that pass between steps. The leaf; imports no other package."""
