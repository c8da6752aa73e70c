"""The same servers on other libraries, each written as its users would write it."""
