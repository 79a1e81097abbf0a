"""The exceptions and warnings of the package."""


class DeviceError(RuntimeError):
    """The arrays are on a device for which this build, this machine or this function has no code."""


class ConvergenceWarning(RuntimeWarning):
    """A solver stopped at its limit; its result says how far it came."""


class TiesWarning(UserWarning):
    """Samples that should differ are equal, which an estimator for continuous variables does not expect."""
