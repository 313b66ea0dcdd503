"""Words of our reports in other languages, one file each."""
