"""What one road is asked to do, a file for each of its sides; `postroad.app` puts them together."""
