//! Which tokens may come next, where a schema, a grammar or a budget decides.
