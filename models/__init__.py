"""Network architectures that several examples use, and what goes with them."""


class WeightsError(Exception):
    """A problem with a file of weights that the user can mend; str() is one line."""
