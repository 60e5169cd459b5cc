"""BoltzGen's metrics of nanobodies against a target, by its own program in an environment of its own."""
