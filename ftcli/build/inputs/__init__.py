"""What a run reads: recorded and compared byte for byte, and found again where its folder was copied."""
