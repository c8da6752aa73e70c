"""The servers on iocpcore, written as its users would write them."""
