"""What makes programs written for other interfaces run on plugsocket."""
