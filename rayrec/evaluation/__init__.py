"""How good the recommendations are, measured offline on the newest part of the log."""
