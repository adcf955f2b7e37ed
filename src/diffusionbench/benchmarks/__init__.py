"""One folder per benchmark: what is asked, what the judges are asked about it, and how that is scored."""
