"""What torch does, in less time; every part gives the numbers of the torch module it replaces."""
