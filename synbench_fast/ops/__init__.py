"""The five operations; each module holds the contract, the float64 torch specification and the bindings of one."""
