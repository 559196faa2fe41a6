"""What the TensorBoard callback shows beside the logs: how it is found out, drawn and written."""
