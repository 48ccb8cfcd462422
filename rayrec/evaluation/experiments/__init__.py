"""The statistics of experiments on people: gains of ratios, tests that may be looked at any time, shares of arms, power."""
