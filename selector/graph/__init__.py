"""From a QDQ network to an executable: frontends, fusion, layout, the legalize hook, compilation."""
