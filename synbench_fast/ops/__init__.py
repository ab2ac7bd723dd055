"""The operations: the contract of NAME in NAME.py, its float64 specification in NAME_torch.py, its backends in `dispatch`."""
