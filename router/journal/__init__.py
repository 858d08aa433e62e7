"""The journal of revisions: kept in a store that several processes and machines share, and in memory for the path of calls."""
