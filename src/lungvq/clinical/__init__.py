"""What the maps mean: V/Q classes, functional small airways disease, and when not to believe them."""
