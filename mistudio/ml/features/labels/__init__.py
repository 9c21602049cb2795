"""Labels that need no language model: rules fitted on half of the rows, scored on the other."""
