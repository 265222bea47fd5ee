"""The benchmark: Gatehouse side by side with the plain set-up, interleaved, on the same machine."""
