"""The plugins that qntz ships: rules, thresholds, metrics, data sources and backends, through the public hooks."""
