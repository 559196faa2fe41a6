"""What commands print: errors of specs with their source lines, and tables."""
