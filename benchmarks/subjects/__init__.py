"""What is measured: the library, its limits and its peers. Each function is one measurement."""
