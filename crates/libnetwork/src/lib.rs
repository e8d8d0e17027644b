//! Docker's own network command: the network driver and the IPAM driver of its remote plugin protocol.
