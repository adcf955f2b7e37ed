"""Studies: many methods on several tasks under one recipe, from one file to records, a site and a report."""
