"""jaxflow's side of every case: factories that return a `Task`."""
