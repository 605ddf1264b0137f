"""Getting the data: download, verify, extract, parse, and sample data for working offline."""
