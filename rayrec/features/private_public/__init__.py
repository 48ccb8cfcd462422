"""The private/public network: features that are peculiar to picture or sound, and features that both share."""
