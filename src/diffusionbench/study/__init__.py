"""Points, statistics and boards over records: what is measured, compared and published. Never imports torch."""
