"""Names of every metric and log field, once, and the set-up of JSON logs."""
