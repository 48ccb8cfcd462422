"""How many users an experiment needs to see a gain, and what it can see with those that it has.

`deviation` is the standard error of the logarithm of the gain times the square root of the users of both arms: what a pilot's
`Gain` had. `critical` is how many standard errors a gain must be away from zero, for a number of users: 1.96 for a fixed test,
the `radius` of a `Mixture` for a sequential one. Of a sequential test, which may also stop earlier, this is the least power that
it has.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

MOST = 1e15  # users

Critical = Callable[[float], float]


def fixed(alpha: float = 0.05) -> Critical:
    """Of a test that is looked at once."""
    critical = float(norm.isf(alpha / 2))
    return lambda users: critical


def power(relative: float, deviation: float, users: float, critical: Critical) -> float:
    """The probability that a relative gain (.01 is 1 %) is found with so many users of both arms."""
    z, limit = float(np.log1p(relative)) / deviation * users**0.5, critical(users)
    return float(norm.sf(limit - z) + norm.cdf(-limit - z))


def users_needed(relative: float, deviation: float, critical: Critical, wanted: float = 0.8) -> float:
    """The users of both arms with whom a relative gain is found with the wanted probability; infinite for no gain."""
    if power(relative, deviation, MOST, critical) < wanted:
        return float("inf")
    if power(relative, deviation, 1, critical) >= wanted:
        return 1.0
    return float(np.exp(brentq(lambda log: power(relative, deviation, np.exp(log), critical) - wanted, 0, np.log(MOST))))


def detectable(deviation: float, users: float, critical: Critical, wanted: float = 0.8) -> float:
    """The smallest relative gain that is found with the wanted probability with so many users of both arms."""
    if power(0.0, deviation, users, critical) >= wanted:
        return 0.0
    error = deviation / users**0.5
    log = brentq(lambda log: power(float(np.expm1(log)), deviation, users, critical) - wanted, 0, error * (critical(users) + 10))
    return float(np.expm1(log))
